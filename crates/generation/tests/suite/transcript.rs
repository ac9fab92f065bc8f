//! A stream read to its end. Knows no test.

use generation::{Delta, Finished, GenerationEvent, GenerationStream};

/// What a stream gave, put together by answer.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) answers: Vec<Answer>,
    pub(crate) prompt_logprobs: Vec<generation::TokenLogprobs>,
    pub(crate) num_deltas: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) delta: Delta,
    pub(crate) finished: Option<Finished>,
}

impl Transcript {
    /// Reads a stream to its end; no event may come after an answer's last one.
    pub(crate) async fn read(mut stream: GenerationStream) -> Self {
        let mut transcript = Self::default();
        while let Some(event) = stream.next().await {
            transcript.add(event);
        }
        assert!(transcript.answers.iter().all(|answer| answer.finished.is_some()), "{transcript:?}");
        transcript
    }

    pub(crate) fn add(&mut self, event: GenerationEvent) {
        match event {
            GenerationEvent::PromptLogprobs(entries) => self.prompt_logprobs.extend(entries),
            GenerationEvent::Delta(delta) => {
                self.num_deltas += 1;
                let answer = self.answer(delta.index);
                answer.delta.text.push_str(&delta.text);
                answer.delta.token_ids.extend(delta.token_ids);
                answer.delta.logprobs.extend(delta.logprobs);
            }
            GenerationEvent::Finished(finished) => {
                let answer = self.answer(finished.index);
                answer.finished = Some(finished);
            }
        }
    }

    fn answer(&mut self, index: u32) -> &mut Answer {
        let len = self.answers.len().max(index as usize + 1);
        self.answers.resize_with(len, Answer::default);
        let answer = &mut self.answers[index as usize];
        assert!(answer.finished.is_none(), "an event after the last one of answer {index}");
        answer
    }
}

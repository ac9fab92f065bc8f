//! `pagewise generate` and `pagewise chat`: questions from flags, stdin or a terminal, answers streamed to stdout, and a
//! summary beside them. Knows nothing of who answers.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use generation::{ChatMessage, Input};

use crate::cli::{ChatArgs, GenerateArgs};
use crate::output::StdoutClosed;
use crate::target::{Answer, End, EngineFigures, Piece, Target};
use crate::{output, report};

/// Runs `pagewise generate`.
pub(crate) async fn generate(args: &GenerateArgs) -> Result<()> {
    let input = match (&args.prompt_token_ids, &args.prompt) {
        (Some(ids), _) => Input::Tokens(ids.clone()),
        (None, Some(text)) => Input::Text(text.clone()),
        (None, None) => Input::Text(prompt_from_stdin()?),
    };
    let mut target = Target::open(&args.answer, &args.engine).await?;
    let asked = Instant::now();
    let answer = target.generate(input, &args.sampling, args.engine.seed).await?;
    let streamed = stream(answer, asked).await?;
    if args.answer.summary {
        output::note(format_args!("\n{}", summary(&streamed, &target.figures().await?)));
    }
    Ok(())
}

fn prompt_from_stdin() -> Result<String> {
    const HOW: &str = "give --prompt or --prompt-token-ids, or write to stdin";
    if io::stdin().is_terminal() {
        bail!("no prompt: {HOW}");
    }
    let text = io::read_to_string(io::stdin()).context("cannot read the prompt from stdin")?;
    if text.is_empty() {
        bail!("no prompt, stdin is empty: {HOW}");
    }
    Ok(text)
}

/// Runs `pagewise chat`.
pub(crate) async fn chat(args: &ChatArgs) -> Result<()> {
    let mut target = Target::open(&args.answer, &args.engine).await?;
    let message = |role: &str, content: &str| ChatMessage { role: role.to_string(), content: content.to_string() };
    let mut messages: Vec<ChatMessage> = args.system_prompt.iter().map(|text| message("system", text)).collect();
    let mut questions = Questions::new(args.quick.as_deref());
    while let Some(question) = questions.next().await? {
        messages.push(message("user", &question));
        let asked = Instant::now();
        let streamed = async {
            let answer = target.generate(Input::Chat(messages.clone()), &args.sampling, args.engine.seed).await?;
            stream(answer, asked).await
        };
        match streamed.await {
            Ok(streamed) => {
                messages.push(message("assistant", &streamed.text));
                if args.answer.summary {
                    output::note(format_args!("\n{}", summary(&streamed, &target.figures().await?)));
                }
            }
            // At a terminal one can ask again: the refused question is forgotten.
            Err(error) if questions.is_dialogue() && !error.is::<StdoutClosed>() => {
                output::note(format_args!("error: {error:#}"));
                messages.pop();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where a chat's questions come from.
enum Questions {
    /// One, from a flag.
    Quick(Option<String>),
    /// A line each, from a person; an empty one ends the chat.
    Terminal,
    /// A line each, from a file or a pipe; empty ones mean nothing.
    Lines,
}

impl Questions {
    fn new(quick: Option<&str>) -> Self {
        match quick {
            Some(question) => Self::Quick(Some(question.to_string())),
            None if io::stdin().is_terminal() => {
                output::note("An empty line or Ctrl-D ends the chat.");
                Self::Terminal
            }
            None => Self::Lines,
        }
    }

    fn is_dialogue(&self) -> bool {
        matches!(self, Self::Terminal)
    }

    /// The next question; `None` at the end.
    async fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Quick(question) => Ok(question.take()),
            Self::Terminal => {
                let _ = write!(io::stderr(), "> ");
                Ok(read_line().await?.filter(|line| !line.is_empty()))
            }
            Self::Lines => loop {
                match read_line().await? {
                    Some(line) if line.is_empty() => {}
                    line => return Ok(line),
                }
            },
        }
    }
}

/// The next line of stdin, trimmed; `None` at the end. Read on a thread of its own: while a person thinks, the connection to
/// a server has to show that it is alive.
async fn read_line() -> Result<Option<String>> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|len| (len > 0).then(|| line.trim().to_string()))
    });
    read.await.context("the thread that reads stdin failed")?.context("cannot read from stdin")
}

/// An answer that was streamed, and how it went.
struct Streamed {
    text: String,
    end: End,
    /// From the question to the first token.
    ttft: Duration,
    /// From the question to the last token.
    total: Duration,
    /// Tokens that came with the first one: they need no further time.
    first_tokens: usize,
}

/// Writes an answer's text as it comes, and a newline at the end.
async fn stream(mut answer: Answer, asked: Instant) -> Result<Streamed> {
    let (mut text, mut first, mut last) = (String::new(), None, asked);
    while let Some(piece) = answer.next().await? {
        match piece {
            Piece::Text(piece, num_tokens) => {
                last = Instant::now();
                first.get_or_insert((last, num_tokens));
                text.push_str(&piece);
                output::print(piece)?;
            }
            Piece::End(end) => {
                output::print_line("")?;
                let (first, first_tokens) = first.unwrap_or((last, 0));
                return Ok(Streamed { text, end, ttft: first - asked, total: last - asked, first_tokens });
            }
            Piece::Failed(cause) => {
                output::print_line("")?;
                bail!("the answer is not complete: {cause}");
            }
        }
    }
    bail!("the answer's stream ended without its last message")
}

/// What `--summary` prints.
fn summary(streamed: &Streamed, engine: &EngineFigures) -> String {
    let Streamed { end, ttft, total, first_tokens, .. } = streamed;
    let later_tokens = f64::from(end.output_tokens) - *first_tokens as f64;
    let later_seconds = (*total - *ttft).as_secs_f64();
    // The last token is sampled and never attended to, so it needs no place.
    let kv_tokens = (end.prompt_tokens + end.output_tokens).saturating_sub(1);
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name:<10} {value}").expect("strings take all");
    line("prompt", format!("{} tokens, {} of them found in the prefix cache", end.prompt_tokens, end.cached_tokens));
    line("answer", format!("{} tokens, ended by {}", end.output_tokens, end.reason));
    line("TTFT", format!("{:.0} ms", ttft.as_secs_f64() * 1e3));
    if later_tokens > 0.0 && later_seconds > 0.0 {
        line("speed", format!("{:.1} tokens/s after the first", later_tokens / later_seconds));
    }
    line(
        "KV blocks",
        format!(
            "{} used, {} of them shared from the prefix cache; the pool has {} of {} tokens",
            kv_tokens.div_ceil(engine.block_size.max(1)),
            end.cached_tokens / engine.block_size.max(1),
            engine.num_blocks,
            engine.block_size
        ),
    );
    line("device", engine.device.clone());
    text + &report::ledger(engine.memory.iter().map(|(name, bytes)| (name.as_str(), *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let end = End { reason: "length".to_string(), prompt_tokens: 40, cached_tokens: 32, output_tokens: 11 };
        let (ttft, total) = (Duration::from_millis(50), Duration::from_millis(150));
        let streamed = Streamed { text: String::new(), end, ttft, total, first_tokens: 1 };
        let memory = vec![("weights".to_string(), 1 << 20)];
        let engine = EngineFigures { device: "cpu".to_string(), block_size: 16, num_blocks: 99, memory };
        let expected = "\
prompt     40 tokens, 32 of them found in the prefix cache
answer     11 tokens, ended by length
TTFT       50 ms
speed      100.0 tokens/s after the first
KV blocks  4 used, 2 of them shared from the prefix cache; the pool has 99 of 16 tokens
device     cpu
memory
  weights                 1.0 MiB
  total                   1.0 MiB";
        assert_eq!(summary(&streamed, &engine), expected);
    }
}

//! `pagewise bench quality`: how well a model on a device foretells known tokens. Prints what it foretold and judges nothing:
//! whoever has a reference compares. Knows no engine.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use serving_types::TokenId;

use super::print;
use super::scorer::{Foretold, Scorer};
use crate::cli::{QualityArgs, Rows};
use crate::phases::Phases;
use crate::wiring::{self, Profile};
use crate::{output, text_file};

/// A text, of which every token but the first counts.
#[derive(Deserialize)]
struct Text {
    ids: Vec<TokenId>,
}

/// Answers that somebody else has given.
#[derive(Deserialize)]
struct Answers {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
}

/// Runs the command.
pub(crate) fn quality(args: &QualityArgs) -> Result<()> {
    let text: Text = read(&args.text)?;
    let answers: Option<Answers> = args.answers.as_deref().map(read).transpose()?;
    let cases = answers.map(|answers| answers.cases).unwrap_or_default();
    let wholes: Vec<Vec<TokenId>> =
        cases.iter().map(|case| [&case.prompt_ids[..], &case.output_ids].concat()).collect();
    let texts: Vec<&[TokenId]> = wholes.iter().map(Vec::as_slice).collect();
    let loaded = wiring::load(&args.engine, Profile::Off, &mut Phases::begin())?;
    output::note(loaded.describe());
    let (mut by_rows, mut scorer) = (Map::new(), Scorer::new(loaded.executor));
    for rows in &args.rows {
        let name = match rows {
            Rows::Prefill => "prefill",
            Rows::Decode => "decode",
        };
        let of_text = scorer.score(&[&text.ids], *rows)?;
        let of_answers = scorer.score(&texts, *rows)?;
        let of_answers = of_answers.iter().zip(&cases).map(|(foretold, case)| {
            // Of the prompt's tokens, only the last foretells a token of the answer.
            foretold.get(case.prompt_ids.len().saturating_sub(1)..).unwrap_or_default()
        });
        by_rows.insert(name.into(), of_rows(&of_text[0], of_answers));
    }
    print(&loaded.model, json!({ "rows": by_rows }))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&text_file::read(path)?).with_context(|| format!("in {}", path.display()))
}

fn of_rows<'f>(of_text: &[Foretold], of_answers: impl Iterator<Item = &'f [Foretold]>) -> Value {
    let answers = of_answers.map(|foretold| {
        json!({
            "most_likely": foretold.iter().map(|position| position.most_likely).collect::<Vec<_>>(),
            "gaps": foretold.iter().map(|position| position.gap).collect::<Vec<_>>(),
        })
    });
    json!({
        "perplexity": perplexity(of_text),
        "scored_tokens": of_text.len(),
        "answers": answers.collect::<Vec<_>>(),
    })
}

/// `exp` of the mean of the negative natural-log probabilities.
fn perplexity(foretold: &[Foretold]) -> f64 {
    let sum: f64 = foretold.iter().map(|position| f64::from(position.logprob)).sum();
    (-sum / foretold.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_how_many_equally_likely_tokens_there_seem_to_be() {
        let foretold = |probability: f32| Foretold { logprob: probability.ln(), most_likely: 0, gap: 0.0 };
        let check = |probabilities: &[f32], expected: f64| {
            let found = perplexity(&probabilities.iter().copied().map(foretold).collect::<Vec<_>>());
            assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
        };
        check(&[1.0, 1.0], 1.0);
        check(&[0.25; 3], 4.0);
        check(&[0.5, 0.125], 4.0);
    }
}

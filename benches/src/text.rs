//! A text as token ids, of which prompts are made: the first of the GNU General Public License, as SmolLM2's tokenizer splits
//! it. To any other model they are ids like any others. Knows no tokenizer.

use std::sync::LazyLock;

use serde::Deserialize;

/// The ids of the text.
pub static TEXT_IDS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Fixture {
        ids: Vec<u32>,
    }
    let fixture: Fixture = serde_json::from_str(include_str!("../../fixtures/smollm2/perplexity-ids.json"))
        .expect("the committed text is readable");
    fixture.ids
});

//! Any text as a generation_config.json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_format::GenerationDefaults;

fuzz_target!(|json: &str| {
    if let Ok(defaults) = GenerationDefaults::from_json(json) {
        assert!(defaults.temperature.is_none_or(|temperature| temperature >= 0.0));
    }
});

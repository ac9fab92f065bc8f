//! The workloads that have a name. They are part of the program, so that it measures anywhere. Knows nothing of their content.

/// Name and description of each, in the order in which they are listed.
pub const NAMED: [(&str, &str); 12] = [
    ("w1", include_str!("../../workloads/w1.toml")),
    ("w2", include_str!("../../workloads/w2.toml")),
    ("w3", include_str!("../../workloads/w3.toml")),
    ("w4", include_str!("../../workloads/w4.toml")),
    ("chat", include_str!("../../workloads/chat.toml")),
    ("bursts", include_str!("../../workloads/bursts.toml")),
    ("batch", include_str!("../../workloads/batch.toml")),
    ("long-prompts", include_str!("../../workloads/long-prompts.toml")),
    ("conversations", include_str!("../../workloads/conversations.toml")),
    ("few-shot", include_str!("../../workloads/few-shot.toml")),
    ("tenants", include_str!("../../workloads/tenants.toml")),
    ("impatient", include_str!("../../workloads/impatient.toml")),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::text::TEXT_IDS;
    use crate::workload::{TokenSource, Workload};

    #[test]
    fn every_one_can_be_drawn_and_has_the_name_of_its_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let files = std::fs::read_dir(&folder).expect("the folder is there");
        let names: BTreeSet<String> = files
            .map(|file| file.expect("it can be listed").path())
            .map(|path| path.file_stem().expect("it has a name").to_string_lossy().into_owned())
            .collect();
        assert_eq!(NAMED.iter().map(|(name, _)| (*name).to_string()).collect::<BTreeSet<_>>(), names);
        for (name, text) in NAMED {
            let path = folder.join(name).with_extension("toml");
            assert_eq!(std::fs::read_to_string(path).expect("it is readable"), text, "{name}");
            let workload = Workload::find(name).unwrap_or_else(|error| panic!("{error:#}"));
            let plan = workload.plan(&TokenSource::Text(&TEXT_IDS)).expect("it can be drawn");
            assert!(plan.num_requests() > 0 && workload.stands_for.ends_with('.'), "{name}");
        }
    }
}

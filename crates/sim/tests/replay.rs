//! What an engine's journal says can be played again, and what was changed in it is noticed.

use std::io::Write;
use std::sync::{Arc, Mutex};

use sim::{Scenario, replay, run_with_journal};

/// A journal that the test keeps a hold of.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn journal_of(seed: u64) -> (String, u64) {
    let journal = Shared::default();
    let report = run_with_journal(&Scenario::random(seed), Box::new(journal.clone()));
    let text = String::from_utf8(journal.0.lock().unwrap().clone()).unwrap();
    (text, report.stats.steps)
}

#[test]
fn a_journal_replays_to_the_same_batches() {
    let mut num_cut = 0;
    for seed in 0..60 {
        let (journal, num_steps) = journal_of(seed);
        let replayed = replay(journal.as_bytes()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // A device that is lost takes launched steps with it.
        assert!((num_steps..=num_steps + 3).contains(&replayed.num_batches), "seed {seed}: {replayed:?}, {num_steps}");

        // As a crash leaves it.
        let cut = &journal[..journal.len() / 2];
        let replayed = replay(cut.as_bytes()).unwrap_or_else(|error| panic!("seed {seed}, cut: {error}"));
        num_cut += replayed.num_batches;
    }
    assert!(num_cut > 500, "half the journals hold batches");
}

#[test]
fn what_was_changed_is_noticed() {
    let check = |what: &str, change: &dyn Fn(&str) -> String| {
        let (journal, _) = journal_of(7);
        let changed = change(&journal);
        assert_ne!(changed, journal, "{what} changes something");
        assert!(replay(changed.as_bytes()).is_err(), "{what} goes unnoticed");
    };
    check("another row", &|journal| journal.replacen("\"start\":0", "\"start\":1", 1));
    check("another block", &|journal| journal.replacen("\"blocks\":[", "\"blocks\":[0,", 1));
    check("a left out batch", &|journal| {
        let lines: Vec<&str> = journal.lines().collect();
        let launch = lines.iter().position(|line| line.starts_with("{\"Launch\"")).unwrap();
        [&lines[..launch], &lines[launch + 1..]].concat().join("\n")
    });
    check("another token", &|journal| {
        let prompt = journal.find("\"prompt\":[").unwrap() + "\"prompt\":[".len();
        format!("{}1{}", &journal[..prompt], &journal[prompt..])
    });
    check("a line that is no entry", &|journal| journal.replacen('\n', "\n{}\n", 1));
    check("no beginning", &|journal| journal.split_once('\n').unwrap().1.to_owned());
    check("nothing", &|_| String::new());
}

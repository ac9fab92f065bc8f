//! `cargo xtask bench planted`: a proof that `--check` notices what it is for. A fifth to a quarter more work is planted into
//! the scheduler and into a kernel, in a copy of the crates; the benchmarks of the slower program must be found out beside
//! those of the sound one, by their times and by their instructions, and the sound one beside itself must not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Result, ensure};

use super::goals::Goals;
use super::instructions::{Counted, NO_VALGRIND};
use super::machine::Machine;
use super::measured::Measured;
use super::record::{Origin, Recorder};
use super::{benchmark, contender, estimates, regression};
use crate::planting::{Copied, PlantedBug};
use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only count instructions, for which the machine need not be quiet.
    #[arg(long)]
    no_times: bool,
}

/// What the copy holds: the benchmarks, and whatever they depend on, also for tests.
const MEMBERS: [&str; 14] = [
    "benches",
    "crates/backend-cpu",
    "crates/backend-cuda",
    "crates/engine",
    "crates/inference-proto",
    "crates/kernels-sys",
    "crates/kv-paging",
    "crates/model-format",
    "crates/sampling",
    "crates/scheduler",
    "crates/serving-types",
    "crates/sim",
    "crates/tensor-backend",
    "crates/tokenization",
];

/// What they read as they are compiled.
const FOLDERS: [&str; 1] = ["fixtures/smollm2"];

/// Slower code, and the benchmarks that it makes slower: one that is timed, and one whose instructions are counted.
struct Slowdown {
    bug: PlantedBug,
    timed: &'static str,
    counted: &'static str,
}

const SLOWDOWNS: [Slowdown; 2] = [
    Slowdown {
        bug: PlantedBug {
            name: "the plan takes the blocks of each row twice",
            file: "crates/scheduler/src/plan.rs",
            sound: "                if self.take_blocks(place, end, plan) {",
            broken: "                let _ = self.take_blocks(place, end, plan);
                if self.take_blocks(place, end, plan) {",
        },
        timed: "scheduler/plan 1024 decodes, 0 waiting",
        counted: "scheduler/plan+complete 256 decodes, 0 waiting",
    },
    Slowdown {
        bug: PlantedBug {
            name: "the product computes every fourth unit twice",
            file: "crates/backend-cpu/src/ops/product.rs",
            sound: "                    segment.panels.unit_product(cores.path, unit - segment.first_unit, x, out.reborrow());",
            broken: "                    segment.panels.unit_product(cores.path, unit - segment.first_unit, x, out.reborrow());
                    if unit.is_multiple_of(4) {
                        segment.panels.unit_product(cores.path, unit - segment.first_unit, x, out.reborrow());
                    }",
        },
        timed: "backend-cpu/product of 64 rows, Q4_1, 1536 to 576, one thread",
        counted: "backend-cpu/product of 4 rows, Q4_1, 1536 to 576, one thread",
    },
];

/// The same benchmarks with and without the slowdowns.
struct Programs {
    sound: PathBuf,
    slow: PathBuf,
    /// Where criterion may leave what it estimates.
    estimates: PathBuf,
}

/// Builds both programs, and judges them by instructions and by times.
pub(super) fn run(args: &Args) -> Result<()> {
    let programs = Programs::build()?;
    let recorder = Recorder::new("cargo xtask bench planted".into(), Origin::here()?)?;
    let mut mistakes = Vec::new();
    if contender::in_path("valgrind").is_some() {
        mistakes.extend(programs.judge_counts(&recorder)?);
    } else {
        println!("not counted: {NO_VALGRIND}");
    }
    if !args.no_times {
        mistakes.extend(programs.judge_times(&recorder)?);
    }
    ensure!(mistakes.is_empty(), "{}", mistakes.join("; "));
    Ok(())
}

impl Programs {
    fn build() -> Result<Self> {
        let copy = Copied::new("planted", &MEMBERS, &FOLDERS)?;
        let folder = copy.target_directory();
        let build = |name: &str| -> Result<PathBuf> {
            let built = benchmark::build(copy.cargo(), "benches", "micro")?;
            // The next build puts its own in this place.
            let kept = folder.join(name);
            fs::copy(built, &kept)?;
            Ok(kept)
        };
        let sound = build("sound")?;
        for slowdown in &SLOWDOWNS {
            copy.plant(&slowdown.bug)?;
        }
        let slow = build("slow")?;
        Ok(Self { sound, slow, estimates: folder.join("estimates") })
    }

    /// What `instructions --check` would get wrong.
    fn judge_counts(&self, recorder: &Recorder) -> Result<Vec<String>> {
        let mut mistakes = Vec::new();
        for slowdown in &SLOWDOWNS {
            let before = recorder.as_recorded(&[Counted::count(&self.sound, slowdown.counted)?])?;
            let find = |program: &Path| -> Result<Option<String>> {
                Ok(Counted::count(program, slowdown.counted)?.growth_beyond_slack(&before[0]))
            };
            mistakes.extend(judge(slowdown, find(&self.sound)?, find(&self.slow)?));
        }
        Ok(mistakes)
    }

    /// What `micro --check` would get wrong.
    fn judge_times(&self, recorder: &Recorder) -> Result<Vec<String>> {
        let before = self.time(&self.sound)?;
        let goals = Goals::of(&before);
        let rows: Vec<_> = before.iter().map(|measured| measured.row(&goals)).collect();
        let rows = recorder.as_recorded(&rows)?;
        let (slow, again) = (self.time(&self.slow)?, self.time(&self.sound)?);
        let machine = Machine::this()?.name();
        let find = |measured: &[Measured], name: &str| {
            regression::find(measured, &rows, &machine).into_iter().find(|found| found.starts_with(name))
        };
        let judge = |slowdown: &Slowdown| judge(slowdown, find(&again, slowdown.timed), find(&slow, slowdown.timed));
        Ok(SLOWDOWNS.iter().filter_map(judge).collect())
    }

    /// Runs the benchmarks that are slowed down.
    fn time(&self, program: &Path) -> Result<Vec<Measured>> {
        let names: Vec<String> = SLOWDOWNS.iter().map(|slowdown| format!("^{}$", slowdown.timed)).collect();
        let started = SystemTime::now();
        let mut bench = Command::new(program);
        bench.args(["--bench", &names.join("|")]).env("CRITERION_HOME", &self.estimates);
        process::step(bench.stdout(Stdio::from(std::io::stderr())))?;
        let measured = estimates::read(&self.estimates, started)?;
        ensure!(measured.len() == SLOWDOWNS.len(), "{} of {} benchmarks ran", measured.len(), SLOWDOWNS.len());
        Ok(measured)
    }
}

/// Prints what was found of the sound and of the slow program, and returns what is wrong with that.
fn judge(slowdown: &Slowdown, of_sound: Option<String>, of_slow: Option<String>) -> Option<String> {
    let name = slowdown.bug.name;
    match (of_sound, of_slow) {
        (None, Some(found)) => {
            println!("caught     {name}: {found}");
            None
        }
        (None, None) => {
            println!("NOT CAUGHT {name}");
            Some(format!("not caught: {name}"))
        }
        (Some(found), _) => {
            println!("FALSE      without anything planted: {found}");
            Some(format!("nothing is planted, and {found}: the machine is not quiet"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowdowns_have_their_place() {
        crate::planting::check_places(&SLOWDOWNS.map(|slowdown| slowdown.bug));
    }

    #[test]
    fn only_the_slow_program_may_be_found_out() {
        let found = || Some("a is 20 % slower".to_string());
        let judge = |of_sound, of_slow| judge(&SLOWDOWNS[0], of_sound, of_slow);
        assert_eq!(judge(None, found()), None);
        assert_eq!(judge(None, None).as_deref(), Some("not caught: the plan takes the blocks of each row twice"));
        assert!(judge(found(), found()).is_some_and(|mistake| mistake.contains("not quiet")));
    }
}

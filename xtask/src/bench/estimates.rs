//! The files in which criterion leaves what it estimated. Knows no benchmark's code and no goal.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::measured::Measured;

/// What criterion writes of a benchmark, as far as it matters here. Times are in nanoseconds an iteration.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
    median_abs_dev: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Which benchmark it was.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Throughput>,
}

/// What an iteration works on. Bytes and bits would need goals of their own.
#[derive(Deserialize)]
enum Throughput {
    Elements(u64),
}

/// All estimates below criterion's folder that were written since then, in the order of their names.
pub(super) fn read(folder: &Path, since: SystemTime) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            // Beside `new` lie `base`, with the run before it, and `change`.
            if entry.file_name() == "new" {
                measured.extend(read_benchmark(&entry.path(), since)?);
            } else if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    measured.sort_by(|one, next| one.name.cmp(&next.name));
    Ok(measured)
}

/// The newest estimates of one benchmark, if they are new enough.
fn read_benchmark(folder: &Path, since: SystemTime) -> Result<Option<Measured>> {
    let path = folder.join("estimates.json");
    let written = fs::metadata(&path).and_then(|file| file.modified());
    if written.with_context(|| format!("cannot read {}", path.display()))? < since {
        return Ok(None);
    }
    let estimates: Estimates = read_json(&path)?;
    let benchmark: Benchmark = read_json(&folder.join("benchmark.json"))?;
    Ok(Some(Measured {
        name: benchmark.full_id,
        median_ns: estimates.median.point_estimate,
        spread_ns: estimates.median_abs_dev.point_estimate,
        num_elements: benchmark.throughput.map(|Throughput::Elements(num)| num),
        op: None,
    }))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&content).with_context(|| format!("{} is not what criterion writes", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    const ESTIMATES: &str = r#"{
        "mean": {"confidence_interval": {"confidence_level": 0.95, "lower_bound": 1.0, "upper_bound": 3.0},
                 "point_estimate": 2.5, "standard_error": 0.1},
        "median": {"point_estimate": 2.0}, "median_abs_dev": {"point_estimate": 0.25},
        "slope": null, "std_dev": {"point_estimate": 0.3}}"#;

    const BENCHMARK: &str = r#"{
        "group_id": "engine", "function_id": "step", "value_str": null, "throughput": {"Elements": 256},
        "full_id": "engine/step", "directory_name": "engine/step", "title": "engine/step"}"#;

    /// A folder as criterion fills it, removed at the end.
    struct Criterion(PathBuf);

    impl Criterion {
        fn with(test: &str, files: &[(&str, &str)]) -> Self {
            let folder = std::env::temp_dir().join(format!("pagewise-{test}-{}", std::process::id()));
            for (path, content) in files {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("the folder is ours");
                fs::write(path, content).expect("the folder is ours");
            }
            Self(folder)
        }
    }

    impl Drop for Criterion {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_newest_estimates_are_read() {
        let other = BENCHMARK.replace("step", "another").replace(r#"{"Elements": 256}"#, "null");
        let folder = Criterion::with(
            "estimates",
            &[
                ("engine/step/new/estimates.json", ESTIMATES),
                ("engine/step/new/benchmark.json", BENCHMARK),
                ("engine/step/base/estimates.json", "from the run before"),
                ("engine/another/new/estimates.json", ESTIMATES),
                ("engine/another/new/benchmark.json", &other),
                ("report/index.html", "a page"),
            ],
        );
        let measured = read(&folder.0, SystemTime::UNIX_EPOCH).expect("all is there");
        let rows: Vec<_> =
            measured.iter().map(|row| (row.name.as_str(), row.median_ns, row.spread_ns, row.num_elements)).collect();
        assert_eq!(rows, [("engine/another", 2.0, 0.25, None), ("engine/step", 2.0, 0.25, Some(256))]);
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert!(read(&folder.0, later).expect("all is there").is_empty(), "they are from before");
    }

    #[test]
    fn what_criterion_does_not_write_is_refused_by_its_path() {
        let check = |test: &str, estimates: &str, benchmark: &str, named: &str| {
            let files = [("a/new/estimates.json", estimates), ("a/new/benchmark.json", benchmark)];
            let folder = Criterion::with(test, &files);
            let error = read(&folder.0, SystemTime::UNIX_EPOCH).err().expect("it is refused").to_string();
            assert!(error.contains(named) && error.contains("not what criterion writes"), "{error}");
        };
        check("no-median", r#"{"mean": {"point_estimate": 2.5}}"#, BENCHMARK, "estimates.json");
        check("no-json", "", BENCHMARK, "estimates.json");
        check("bytes", ESTIMATES, &BENCHMARK.replace("Elements", "Bytes"), "benchmark.json");
    }
}

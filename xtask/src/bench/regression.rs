//! Micro-benchmarks beside what was last recorded of them on this machine. Knows no benchmark.

use super::measured::Measured;
use super::recorded::Recorded;

/// A slowdown below this share is noise, however small the spreads.
const NOISE_SHARE: f64 = 0.1;

/// And one within so many spreads of both rows together, which add up as those of independent runs do: as squares.
const NOISE_SPREADS: f64 = 3.0;

/// What became slower than the noise explains, each as a sentence. Only rows of this machine, in nanoseconds, are compared.
pub(super) fn find(measured: &[Measured], recorded: &[Recorded], machine: &str) -> Vec<String> {
    measured.iter().filter_map(|now| slowdown_of(now, recorded, machine)).collect()
}

/// The same of one measurement.
pub(super) fn slowdown_of(now: &Measured, recorded: &[Recorded], machine: &str) -> Option<String> {
    let of_machine = |row: &&Recorded| row.machine == machine && row.name == now.name && row.unit == "ns";
    slowdown(now, recorded.iter().rev().find(of_machine)?)
}

fn slowdown(now: &Measured, before: &Recorded) -> Option<String> {
    let before_ns = before.figures().first().copied()?;
    let spreads_ns = now.spread_ns.hypot(before.spread.unwrap_or(0.0));
    let noise_ns = (NOISE_SHARE * before_ns).max(NOISE_SPREADS * spreads_ns);
    (now.median_ns > before_ns + noise_ns).then(|| {
        let percent = 100.0 * (now.median_ns / before_ns - 1.0);
        format!("{} is {percent:.0} % slower than at {}", now.name, before.commit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::recorded;

    #[test]
    fn a_slowdown_beyond_the_noise_is_found() {
        let row = |machine: &str, median: f64| {
            let text = format!(
                r#"{{"name":"a","median":{median},"spread":1,"unit":"ns","commit":"c{median}","command":"c"}}"#
            );
            recorded::parse(&text, machine, "2026-01-31").expect("a row")
        };
        // The last row of this machine holds.
        let recorded = [row("m", 10.0), row("m", 100.0), row("other", 10.0)].concat();
        let check = |median_ns, spread_ns, expected: &[&str]| {
            let measured = [Measured { name: "a".into(), median_ns, spread_ns, num_elements: None, op: None }];
            assert_eq!(find(&measured, &recorded, "m"), expected, "{median_ns} ± {spread_ns}");
        };
        check(120.0, 1.0, &["a is 20 % slower than at c100"]);
        check(109.0, 1.0, &[]);
        check(120.0, 8.0, &[]);
        check(120.0, 6.0, &["a is 20 % slower than at c100"]);
        check(50.0, 1.0, &[]);
        let new = [Measured { name: "new".into(), median_ns: 1e9, spread_ns: 0.0, num_elements: None, op: None }];
        assert!(find(&new, &recorded, "m").is_empty());
    }
}

//! Servers that are asked the same in turns, A B A B, so that what else the machine does meanwhile hits all alike. Knows no
//! goal.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Running};
use super::loaded::{Asking, LoadGenerator, Loaded};
use super::metric::Metric;

/// Draws the requests of the first pair; each further pair is asked others.
const FIRST_SEED: u64 = 1000;

/// All servers of a comparison, running. The first is Pagewise.
pub(super) struct Turns<'a> {
    load: &'a LoadGenerator,
    contenders: Vec<&'a Contender>,
    running: Vec<Running>,
    num_pairs: u32,
}

/// What a workload gave.
pub(super) struct Played {
    /// Of each server that took part, pair by pair.
    pub(super) loaded: Vec<Vec<Loaded>>,
    /// What was asked, pair by pair.
    pub(super) requests_sha256: Vec<String>,
}

impl<'a> Turns<'a> {
    /// Starts all of them, or none is measured.
    pub(super) fn start(load: &'a LoadGenerator, contenders: Vec<&'a Contender>, num_pairs: u32) -> Result<Self> {
        let mut running = contenders.iter().map(|contender| contender.start()).collect::<Result<Vec<_>>>()?;
        for (contender, running) in contenders.iter().zip(&mut running) {
            running.wait_until_listening().with_context(|| contender.name.clone())?;
        }
        for contender in &contenders {
            eprintln!("{} ({}): {}", contender.name, contender.version, contender.command_line());
        }
        Ok(Self { load, contenders, running, num_pairs })
    }

    /// Asks those with these indices in turns.
    pub(super) fn play(&mut self, who: &[usize], workload: &str, num_requests: Option<u32>) -> Result<Played> {
        let mut played = Played { loaded: who.iter().map(|_| Vec::new()).collect(), requests_sha256: Vec::new() };
        for pair in 0..self.num_pairs {
            let asking = Asking { workload, seed: FIRST_SEED + u64::from(pair), num_requests };
            for (place, index) in who.iter().enumerate() {
                let loaded = self.load.run(&mut self.running[*index], asking)?;
                eprintln!(
                    "{workload}, pair {} of {}: {:<16} {:>7.2} s, {:>8.1} output tokens/s, TTFT p50 {:>8.1} ms; load generator \
                     {:.1} % of the machine",
                    pair + 1,
                    self.num_pairs,
                    self.contenders[*index].name,
                    Metric::Wall.of(&loaded)?,
                    Metric::OutputRate.of(&loaded)?,
                    Metric::Ttft.of(&loaded)?,
                    100.0 * loaded.cpu_share()?,
                );
                note_requests(&mut played.requests_sha256, pair, &loaded)?;
                played.loaded[place].push(loaded);
            }
        }
        Ok(played)
    }

    /// The most memory that each had resident until now, in MiB; `None` where that is not known.
    pub(super) fn peak_resident_mib(&self) -> Vec<Option<f64>> {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.running.iter().map(|running| running.peak_resident_bytes().map(mib)).collect()
    }
}

/// What came of starting servers in turns.
pub(super) struct FirstTokens {
    /// From the start of each server's process to its first token, pair by pair.
    pub(super) seconds: Vec<Vec<f64>>,
    /// What was asked, pair by pair.
    pub(super) requests_sha256: Vec<String>,
}

/// Starts servers in turns and asks each for one token. Each is alone meanwhile, and its files are in the page cache.
pub(super) fn first_tokens(load: &LoadGenerator, contenders: &[&Contender], num_pairs: u32) -> Result<FirstTokens> {
    let mut seconds: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut requests_sha256 = Vec::new();
    for pair in 0..num_pairs {
        for (contender, seconds) in contenders.iter().zip(&mut seconds) {
            let started = Instant::now();
            let mut running = contender.start()?;
            let loaded = load.first_token(&mut running)?;
            let first = started.elapsed().as_secs_f64();
            note_requests(&mut requests_sha256, pair, &loaded)?;
            eprintln!("first token, pair {} of {num_pairs}: {:<16} {first:>7.3} s", pair + 1, contender.name);
            seconds.push(first);
        }
    }
    Ok(FirstTokens { seconds, requests_sha256 })
}

/// Keeps what was asked in a pair, and sees to it that all servers of the pair are asked the same.
fn note_requests(requests_sha256: &mut Vec<String>, pair: u32, loaded: &Loaded) -> Result<()> {
    let sha256 = loaded.requests_sha256()?;
    match requests_sha256.get(pair as usize) {
        None => requests_sha256.push(sha256.to_string()),
        Some(first) => ensure!(first == sha256, "two servers were not asked the same: {first} and {sha256}"),
    }
    Ok(())
}

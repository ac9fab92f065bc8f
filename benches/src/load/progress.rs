//! How a run goes on, counted while it does and shown in the terminal. Knows no figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line in the terminal is drawn anew.
const REDRAW: Duration = Duration::from_millis(250);

/// Counts of a run.
#[derive(Debug)]
pub struct Progress {
    num_requests: u64,
    num_sent: AtomicU64,
    num_ended: AtomicU64,
    num_failed: AtomicU64,
    num_tokens: AtomicU64,
}

impl Progress {
    /// Of a run of so many requests.
    #[must_use]
    pub fn new(num_requests: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            num_requests: num_requests as u64,
            num_sent: zero(),
            num_ended: zero(),
            num_failed: zero(),
            num_tokens: zero(),
        }
    }

    pub(super) fn add_sent(&self) {
        self.num_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_tokens(&self, num_tokens: u32) {
        self.num_tokens.fetch_add(num_tokens.into(), Ordering::Relaxed);
    }

    pub(super) fn add_ended(&self) {
        self.num_ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_failed(&self) {
        self.num_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Draws a line until it is dropped. Where stderr is no terminal, it only waits.
    pub async fn show(&self) -> std::convert::Infallible {
        let bar = ProgressBar::with_draw_target(Some(self.num_requests), ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            return std::future::pending().await;
        }
        bar.set_style(ProgressStyle::with_template("{wide_bar} {msg}").expect("the template is valid"));
        let (mut before, mut tokens_before) = (Instant::now(), 0);
        loop {
            tokio::time::sleep(REDRAW).await;
            let (now, tokens) = (Instant::now(), self.num_tokens.load(Ordering::Relaxed));
            let rate = (tokens - tokens_before) as f64 / (now - before).as_secs_f64();
            (before, tokens_before) = (now, tokens);
            let [sent, ended, failed] =
                [&self.num_sent, &self.num_ended, &self.num_failed].map(|count| count.load(Ordering::Relaxed));
            bar.set_position(ended);
            let under_way = sent.saturating_sub(ended);
            bar.set_message(format!(
                "{ended} of {} answered, {under_way} under way, {failed} failed, {rate:.0} tokens/s",
                self.num_requests
            ));
        }
    }
}

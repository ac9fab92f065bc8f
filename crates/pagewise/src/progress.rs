//! Progress on stderr, and nothing at all where stderr is no terminal. Knows no task.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over a number of bytes that is known from the start, or set once it is.
pub(crate) fn byte_bar(what: impl Into<String>, num_bytes: u64) -> ProgressBar {
    let style = "{msg:<28!} {wide_bar} {bytes:>10} of {total_bytes:>10}, {bytes_per_sec:>12}, {eta} left";
    let bar = ProgressBar::with_draw_target(Some(num_bytes), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
    bar.set_message(what.into());
    bar
}

//! The search for the highest rate that a server bears. Pure: knows rates and verdicts, and no server.

/// Bisection between a rate that was borne and one that was not, on a logarithmic scale.
#[derive(Clone, Debug)]
pub struct Bisection {
    low: f64,
    high: f64,
    precision: f64,
    state: State,
}

/// How far the search is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Whether the lowest rate is borne is not known.
    AskLow,
    /// Whether the highest rate is borne is not known.
    AskHigh,
    /// The low end is borne and the high end is not.
    Between,
    /// It is over.
    Done(Found),
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// Not even the lowest rate was borne.
    Nothing,
    /// The highest rate that was borne.
    Rate(f64),
    /// Every rate was borne, the highest of the search too.
    AtLeast(f64),
}

impl Bisection {
    /// Searches between two rates, until the ends differ by less than this share.
    ///
    /// # Panics
    /// If the rates are not positive and in order, or the precision is not positive.
    #[must_use]
    pub fn new(low: f64, high: f64, precision: f64) -> Self {
        assert!(0.0 < low && low < high && high.is_finite() && precision > 0.0, "{low} to {high} by {precision}");
        Self { low, high, precision, state: State::AskLow }
    }

    /// The rate to try next; `None` when it is over.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        match self.state {
            State::AskLow => Some(self.low),
            State::AskHigh => Some(self.high),
            State::Between => Some((self.low * self.high).sqrt()),
            State::Done(_) => None,
        }
    }

    /// The rate to try next was borne, or not.
    pub fn tell(&mut self, is_borne: bool) {
        let Some(rate) = self.next() else { return };
        self.state = match (self.state, is_borne) {
            (State::AskLow, true) => State::AskHigh,
            (State::AskLow, false) => State::Done(Found::Nothing),
            (State::AskHigh, true) => State::Done(Found::AtLeast(self.high)),
            (state, _) => {
                if state == State::Between {
                    *if is_borne { &mut self.low } else { &mut self.high } = rate;
                }
                match self.high / self.low <= 1.0 + self.precision {
                    true => State::Done(Found::Rate(self.low)),
                    false => State::Between,
                }
            }
        };
    }

    /// What was found, when it is over.
    #[must_use]
    pub fn found(&self) -> Option<Found> {
        match self.state {
            State::Done(found) => Some(found),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found between 1 and 64 with a server that bears rates up to this, and after how many tries.
    fn search(limit: f64) -> (Found, usize) {
        let mut bisection = Bisection::new(1.0, 64.0, 0.1);
        let mut num_tries = 0;
        while let Some(rate) = bisection.next() {
            bisection.tell(rate <= limit);
            num_tries += 1;
        }
        (bisection.found().expect("it is over"), num_tries)
    }

    #[test]
    fn the_highest_rate_is_found() {
        assert_eq!(search(0.5), (Found::Nothing, 1));
        assert_eq!(search(100.0), (Found::AtLeast(64.0), 2));
        for limit in [1.0, 7.9, 8.0, 30.0, 63.9] {
            let (Found::Rate(rate), num_tries) = search(limit) else { panic!("{limit} lies between the ends") };
            assert!(rate <= limit && limit < rate * 1.1, "{rate} of {limit}");
            assert_eq!(num_tries, 8, "{limit}");
        }
    }
}

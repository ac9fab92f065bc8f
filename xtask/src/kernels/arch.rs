//! Targets of nvcc. Knows names, not cards.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// What code is made for: `sm_90a` is machine code for one kind of card, `compute_80` code that the driver compiles for any
/// card since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Arch {
    /// `80`, `90a`
    number: String,
    is_machine_code: bool,
}

/// Hopper, tuned, and the portable kernels for all others since Ampere.
pub(crate) const DEFAULT: &str = "sm_90a,compute_80";

impl Arch {
    /// The flag that names it.
    pub(crate) fn flag(&self) -> String {
        format!("-gencode=arch=compute_{},code={self}", self.number)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", if self.is_machine_code { "sm" } else { "compute" }, self.number)
    }
}

impl FromStr for Arch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (is_machine_code, number) = match text.split_once('_') {
            Some(("sm", number)) => (true, number),
            Some(("compute", number)) => (false, number),
            _ => bail!("`{text}` is no target; they look like sm_90a, sm_80 and compute_80"),
        };
        let digits = number.strip_suffix(['a', 'f']).unwrap_or(number);
        match digits.parse::<u32>() {
            Ok(number) if number >= 80 => {}
            Ok(_) => bail!("`{text}`: the kernels need sm_80 or newer"),
            Err(_) => bail!("`{text}` is no target; they look like sm_90a, sm_80 and compute_80"),
        }
        Ok(Self { number: number.to_string(), is_machine_code })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let flag = |text: &str| text.parse::<Arch>().map(|arch| arch.flag()).map_err(|error| error.to_string());
        assert_eq!(flag("sm_90a").as_deref(), Ok("-gencode=arch=compute_90a,code=sm_90a"));
        assert_eq!(flag("compute_80").as_deref(), Ok("-gencode=arch=compute_80,code=compute_80"));
        assert!(flag("sm_75").is_err_and(|error| error.contains("sm_80 or newer")));
        for wrong in ["", "90a", "sm_", "sm_x", "gfx_90", "sm_-1"] {
            assert!(flag(wrong).is_err_and(|error| error.contains("is no target")), "{wrong}");
        }
        assert!(DEFAULT.split(',').all(|arch| arch.parse::<Arch>().is_ok()));
    }
}

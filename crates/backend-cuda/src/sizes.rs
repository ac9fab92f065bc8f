//! The numbers of rows that steps are padded to: few enough to record and to choose algorithms for, close enough to waste
//! little. Knows numbers only.

/// Decode steps: every power of two to 8, then in steps that grow with the size (an eighth of it, about).
pub(crate) fn decode_rows(rows: usize, max_rows: usize) -> usize {
    let step = match rows {
        0..=2 => 1,
        3..=4 => 2,
        5..=64 => 8,
        65..=256 => 16,
        257..=512 => 32,
        _ => 64,
    };
    // 5 to 8 rows are 8, 3 and 4 are 4.
    let padded = if rows <= 4 { rows.next_power_of_two() } else { rows.next_multiple_of(step) };
    padded.min(max_rows).max(rows)
}

/// All sizes of decode steps, ascending, the largest being `max_rows`.
pub(crate) fn all_decode_rows(max_rows: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=max_rows).map(|rows| decode_rows(rows, max_rows)).collect();
    sizes.dedup();
    sizes
}

/// Steps with prompts in them.
pub(crate) fn prefill_rows(rows: usize) -> usize {
    rows.next_multiple_of(if rows <= 512 { 16 } else { 64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_fits_its_size_and_wastes_little() {
        for max_rows in [1, 3, 7, 64, 100, 1000, 1024] {
            let sizes = all_decode_rows(max_rows);
            assert_eq!(sizes.last(), Some(&max_rows));
            for rows in 1..=max_rows {
                let padded = decode_rows(rows, max_rows);
                assert!(sizes.contains(&padded));
                assert!((rows..=max_rows).contains(&padded), "{rows} of {max_rows} became {padded}");
                assert!(padded - rows < (rows / 4).max(8), "{rows} became {padded}");
            }
        }
        assert_eq!(all_decode_rows(40), [1, 2, 4, 8, 16, 24, 32, 40]);
        assert!(all_decode_rows(1024).len() < 45);
        assert_eq!([1, 16, 17, 513].map(prefill_rows), [16, 16, 32, 576]);
    }
}

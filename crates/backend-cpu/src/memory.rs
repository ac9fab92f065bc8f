//! Memory of the host: refusals are errors, weights lie in huge pages where the system has them, and the KV pool's pages are
//! taken ahead of use by threads that are idle. Knows bytes, not what they hold.
#![allow(unsafe_code, reason = "advice to the system about pages")]

use core::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::CpuError;
use crate::pool::{Chore, Pool};

/// Bytes of a huge page where the system has them, and of what is populated at once.
const HUGE_PAGE: usize = 2 << 20;

/// An empty vector with room for `capacity` elements; the allocator's refusal is an error and not an abort.
pub(crate) fn reserved<T>(capacity: usize, what: &'static str) -> Result<Vec<T>, CpuError> {
    let mut values = Vec::new();
    match values.try_reserve_exact(capacity) {
        Ok(()) => Ok(values),
        Err(_) => Err(CpuError::OutOfMemory { what, bytes: (capacity as u64).saturating_mul(size_of::<T>() as u64) }),
    }
}

/// A vector of zeros, likewise. The pages of plain numbers are taken as they are first written.
pub(crate) fn zeroed<T: Clone>(len: usize, zero: T, what: &'static str) -> Result<Vec<T>, CpuError> {
    // Only `vec!` asks the system for pages of zeros, and it aborts where there is no memory: so ask before.
    reserved::<T>(len, what)?;
    Ok(vec![zero; len])
}

/// Bytes that a vector has taken.
pub(crate) fn bytes_of<T>(values: &Vec<T>) -> u64 {
    (values.capacity() * size_of::<T>()) as u64
}

/// Has what a vector has room for taken in huge pages, where the system has them: what is read by every step is read faster
/// so. To be called before the vector is written.
pub(crate) fn prefer_huge_pages<T>(values: &Vec<T>) {
    let addresses = addresses_of(values);
    if addresses.len() >= HUGE_PAGE {
        advise(addresses, Advice::Huge);
    }
}

/// Takes the pages of a pool a little before they are used, in threads that are idle, so that fewer steps wait for the system
/// to hand them out. The vector must live as long.
///
/// The pool is areas of equally many parts, and the same parts of all areas are used together. `used` is where the last of
/// them ends, and one huge page more is taken.
///
/// ```text
/// area:  [0, used)   [used, used + HUGE_PAGE) taken   [used + HUGE_PAGE, area_bytes) not yet
/// ```
#[derive(Debug)]
pub(crate) struct TakenAhead(Arc<Areas>);

#[derive(Debug)]
struct Areas {
    num_areas: usize,
    area_bytes: usize,
    part_bytes: usize,
    used_bytes: AtomicUsize,
    untaken: Mutex<Untaken>,
}

/// The pieces of all areas in the order in which they are taken: the first of each area, the second of each, and so on.
#[derive(Debug)]
struct Untaken {
    /// The vector's; empty when it is no longer there, or when the system takes no advice.
    addresses: Range<usize>,
    area: usize,
    /// Where the next piece begins in its area.
    offset: usize,
}

impl TakenAhead {
    pub(crate) fn new<T>(values: &Vec<T>, num_areas: usize, parts_per_area: usize, pool: &Pool) -> Self {
        let addresses = addresses_of(values);
        let part_bytes = addresses.len() / (num_areas * parts_per_area).max(1);
        let areas = Arc::new(Areas {
            num_areas,
            area_bytes: part_bytes * parts_per_area,
            part_bytes,
            used_bytes: AtomicUsize::new(0),
            untaken: Mutex::new(Untaken { addresses, area: 0, offset: 0 }),
        });
        let chore: Arc<dyn Chore> = areas.clone();
        pool.when_idle(&chore);
        Self(areas)
    }

    /// A part is used from now on, and perhaps all before it.
    pub(crate) fn use_part(&self, part: usize) {
        let bytes = (part + 1) * self.0.part_bytes;
        if self.0.used_bytes.load(Ordering::Relaxed) < bytes {
            self.0.used_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for TakenAhead {
    fn drop(&mut self) {
        // Nobody takes a page meanwhile, nor later.
        self.0.untaken().addresses = 0..0;
    }
}

impl Areas {
    fn untaken(&self) -> MutexGuard<'_, Untaken> {
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chore for Areas {
    fn do_some(&self) -> bool {
        let mut untaken = self.untaken();
        let wanted = self.area_bytes.min(self.used_bytes.load(Ordering::Relaxed) + HUGE_PAGE);
        if untaken.addresses.is_empty() || untaken.offset >= wanted {
            return false;
        }
        if (untaken.area, untaken.offset) == (0, 0) {
            // Not before: huge pages are slow to come, and the first prompt may need a few small ones of every area.
            advise(untaken.addresses.clone(), Advice::Huge);
        }
        let area = untaken.addresses.start + untaken.area * self.area_bytes;
        let end = (untaken.offset + HUGE_PAGE).min(self.area_bytes);
        if !advise(area + untaken.offset..area + end, Advice::Populate) {
            untaken.addresses = 0..0;
            return false;
        }
        untaken.area += 1;
        if untaken.area == self.num_areas {
            (untaken.area, untaken.offset) = (0, end);
        }
        true
    }
}

fn addresses_of<T>(values: &Vec<T>) -> Range<usize> {
    let start = values.as_ptr().addr();
    start..start + values.capacity() * size_of::<T>()
}

/// What the system may be asked to do with pages. Nothing of it changes what they hold.
#[derive(Clone, Copy)]
enum Advice {
    /// Takes huge pages where they fit.
    Huge,
    /// Takes all pages now.
    Populate,
}

/// Whether the system took the advice. Pages that share bytes with these addresses may be meant as well.
fn advise(addresses: Range<usize>, advice: Advice) -> bool {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let advice = match advice {
            Advice::Huge => libc::MADV_HUGEPAGE,
            Advice::Populate => libc::MADV_POPULATE_WRITE,
        };
        let start = addresses.start / PAGE * PAGE;
        // SAFETY: neither advice changes what any memory holds, so it does not matter who owns the other bytes of the first
        // and the last page; addresses that are not mapped are an error.
        unsafe { libc::madvise(core::ptr::without_provenance_mut(start), addresses.end - start, advice) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (addresses, advice);
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn num_resident_pages(addresses: Range<usize>) -> usize {
        let mut pages = vec![0_u8; addresses.len() / PAGE];
        let start = core::ptr::without_provenance_mut(addresses.start);
        // SAFETY: `pages` has room for a byte of each page.
        let status = unsafe { libc::mincore(start, pages.len() * PAGE, pages.as_mut_ptr()) };
        assert_eq!(status, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn pages_are_taken_ahead_and_hold_what_they_held() {
        const AREA: usize = 3 * HUGE_PAGE;
        let pool = Pool::new(2).unwrap();
        let mut values = zeroed(2 * AREA, 0_u8, "a test").unwrap();
        let mut expected = vec![0; values.len()];
        (values[HUGE_PAGE], expected[HUGE_PAGE]) = (7, 7);
        let start = addresses_of(&values).start.next_multiple_of(PAGE);
        let system_can = advise(start..start + PAGE, Advice::Populate);

        let ahead = TakenAhead::new(&values, 2, 3, &pool);
        let check_taken = |bytes: usize| {
            while ahead.0.do_some() {}
            for area in [start, start + AREA] {
                // A huge page may reach beyond what is asked for.
                assert!(!system_can || num_resident_pages(area..area + bytes - PAGE) == bytes / PAGE - 1);
                assert!(num_resident_pages(area..area + AREA - PAGE) <= (bytes + 2 * HUGE_PAGE) / PAGE);
            }
        };
        check_taken(HUGE_PAGE);
        ahead.use_part(0);
        check_taken(2 * HUGE_PAGE);
        ahead.use_part(1);
        check_taken(AREA);
        ahead.use_part(2);
        check_taken(AREA);
        drop(ahead);
        assert!(values == expected);
    }
}

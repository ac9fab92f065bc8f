//! SHA-256 along the way of the bytes, so that nothing is read twice. Knows no file.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// Copies everything and returns the SHA-256 of it in hexadecimal. `advance` is told of each piece's length.
///
/// # Errors
/// Reading or writing failed.
pub(crate) fn copy_hashing(
    from: &mut dyn Read,
    to: &mut dyn Write,
    mut advance: impl FnMut(u64),
) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&buffer[..len]);
        to.write_all(&buffer[..len])?;
        advance(len as u64);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_what_it_copies() {
        let mut to = Vec::new();
        let mut num_bytes = 0;
        let hash = copy_hashing(&mut "abc".as_bytes(), &mut to, |len| num_bytes += len).expect("copied");
        // FIPS 180-2, appendix B.1.
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((to.as_slice(), num_bytes), ("abc".as_bytes(), 3));
    }
}

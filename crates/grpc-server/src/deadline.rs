//! The deadline of a call: reads the `grpc-timeout` header, and ends what is slow before a response has begun.

use std::future::Future;
use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;

const HEADER: &str = "grpc-timeout";
/// Tonic watches the same header until the response begins, and then says CANCELLED. Ours must be the first.
const MARGIN: Duration = Duration::from_millis(2);

/// Time that the client gives the call, if it says so.
///
/// The format is that of the [gRPC protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md): at most
/// eight digits and a unit.
pub(crate) fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Status> {
    let Some(value) = metadata.get(HEADER) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse);
    parsed.map(Some).ok_or_else(|| {
        Status::invalid_argument(format!(
            "{HEADER} is {value:?}; it must be at most 8 digits and one of the units H, M, S, m, u, n"
        ))
    })
}

fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Awaits work that must be done before the response begins.
pub(crate) async fn before_response<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(timeout) = timeout else { return work.await };
    let expired = |_| Status::deadline_exceeded("the deadline passed before the request was taken");
    tokio::time::timeout(timeout.saturating_sub(MARGIN), work).await.map_err(expired)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("10", None),
            ("10s", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("100000000S", None),
            ("1é", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value), expected, "{value:?}");
        }
    }

    #[tokio::test]
    async fn work_before_the_response() {
        let never = || std::future::pending::<Result<(), Status>>();
        for timeout in [Duration::ZERO, Duration::from_millis(5)] {
            let status = before_response(Some(timeout), never()).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        }
        for timeout in [None, Some(Duration::ZERO)] {
            assert!(before_response(timeout, async { Ok(()) }).await.is_ok(), "what is done is not late");
        }
    }
}

//! Bodies of requests, bounded in bytes and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use tokio::time::timeout;

/// Most bytes of a refused request's body that are taken off the wire.
const DISCARD_BYTES_MAX: usize = 256 * 1024;

/// Longest time that taking them may need.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// Why there is no body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BodyError {
    TooLarge,
    TooSlow,
    /// The connection or the stream ended in the middle of it.
    Broken,
}

/// Whether the headers already say that the body is too long.
pub(super) fn is_declared_too_large(body: &Body, bytes_max: usize) -> bool {
    usize::try_from(body.size_hint().lower()).map_or(true, |lower| lower > bytes_max)
}

/// Reads a body whole.
pub(super) async fn read(
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, BodyError> {
    match timeout(time_max, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::TooSlow),
    }
}

/// Takes a body off the wire without keeping it, within bounds.
///
/// A server that answers and closes while bytes are still arriving makes the kernel reset the connection, and the
/// client may never see the answer that says why it was refused.
pub(super) async fn discard(body: Body) {
    let mut body = Limited::new(body, DISCARD_BYTES_MAX);
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // What remains after that time is the client's own loss.
    let _ = timeout(DISCARD_TIME_MAX, all).await;
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A body that is open for ever.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test]
    async fn at_the_limit_and_one_past_it() {
        let body = || Body::new(Full::new(Bytes::from_static(b"12345")));
        assert_eq!(read(body(), 5, SECOND).await.unwrap(), "12345");
        assert_eq!(read(body(), 4, SECOND).await, Err(BodyError::TooLarge));
        assert!(!is_declared_too_large(&body(), 5) && is_declared_too_large(&body(), 4));
    }

    #[tokio::test]
    async fn time_is_bounded() {
        let tenth = Duration::from_millis(10);
        let read = read(Body::new(Silent), 5, tenth).await;
        assert_eq!(read, Err(BodyError::TooSlow));
    }

    #[tokio::test]
    async fn discarding_ends_at_its_bound() {
        let endless = vec![0_u8; DISCARD_BYTES_MAX + 1];
        discard(Body::new(Full::new(Bytes::from(endless)))).await;
    }
}

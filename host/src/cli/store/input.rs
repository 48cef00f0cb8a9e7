//! What a restore reads, counted as it is read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// A reader that tells how many bytes came of it.
pub(super) struct Counted<'a, R> {
    pub(super) from: R,
    pub(super) read: &'a Cell<u64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<'_, R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.from).poll_read(cx, buffer);
        this.read.set(this.read.get() + (buffer.filled().len() - before) as u64);
        polled
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_counted() {
        let read = Cell::new(0);
        let mut counted = Counted { from: &b"0123456789"[..], read: &read };
        let mut piece = [0; 4];
        counted.read_exact(&mut piece).await.unwrap();
        assert_eq!((&piece, read.get()), (b"0123", 4));
        counted.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(read.get(), 10);
    }
}

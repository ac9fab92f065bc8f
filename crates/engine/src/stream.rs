//! The way of a request's events from the engine's thread to its one reader. Neither side ever waits for the other's progress:
//! sending is a push and, only if the reader sleeps, a wake-up. Knows no event's meaning.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use atomic_waker::AtomicWaker;
use concurrent_queue::{ConcurrentQueue, PopError};

use crate::Event;

/// What both ends hold. The queue grows by some dozens of events at a time and reads without a lock, so that a reader
/// which loses its processor in the middle of a read cannot hold up the engine.
#[derive(Debug)]
struct Stream {
    /// Holds at most `max_tokens` + 2 events in its life, so it needs no bound of its own.
    events: ConcurrentQueue<Event>,
    /// The reader, while it sleeps.
    reader: AtomicWaker,
}

/// The engine's end. Dropping it ends the stream behind what was sent.
#[derive(Debug)]
pub(crate) struct EventSender(Arc<Stream>);

/// The reader's end.
#[derive(Debug)]
pub(crate) struct EventReceiver(Arc<Stream>);

/// A stream without events.
pub(crate) fn event_stream() -> (EventSender, EventReceiver) {
    let stream = Arc::new(Stream { events: ConcurrentQueue::unbounded(), reader: AtomicWaker::new() });
    (EventSender(Arc::clone(&stream)), EventReceiver(stream))
}

impl EventSender {
    /// Sends an event. One whose reader went away is none of the engine's business: its cancel is on the way.
    pub(crate) fn send(&self, event: Event) {
        // Only a closed queue refuses, and it is closed by this end alone.
        let _ = self.0.events.push(event);
        self.0.reader.wake();
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.0.events.close();
        self.0.reader.wake();
    }
}

impl EventReceiver {
    /// The next event; `None` once the other end is gone and all is read. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// As [`recv`](Self::recv), waiting on this thread.
    pub(crate) fn recv_blocking(&mut self) -> Option<Event> {
        thread_local! {
            /// Wakes this thread. Wake-ups that come late are harmless: whoever wakes looks again.
            static UNPARK: Waker = Waker::from(Arc::new(Unpark(thread::current())));
        }
        UNPARK.with(|waker| {
            let mut context = Context::from_waker(waker);
            loop {
                match self.poll_recv(&mut context) {
                    Poll::Ready(event) => return event,
                    Poll::Pending => thread::park(),
                }
            }
        })
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Poll::Ready(event) = self.pop() {
            return Poll::Ready(event);
        }
        // Whatever was sent before the waker was in its place woke nobody, so look again.
        self.0.reader.register(context.waker());
        self.pop()
    }

    fn pop(&mut self) -> Poll<Option<Event>> {
        match self.0.events.pop() {
            Ok(event) => Poll::Ready(Some(event)),
            Err(PopError::Closed) => Poll::Ready(None),
            Err(PopError::Empty) => Poll::Pending,
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use serving_types::RequestId;

    use super::*;

    fn token(token: u32) -> Event {
        Event::Token { id: RequestId(0), token, logprobs: None }
    }

    #[test]
    fn a_reader_on_another_thread_gets_everything_in_order_and_then_the_end() {
        for num_events in [0, 1, 31, 32, 20_000] {
            let (sender, mut receiver) = event_stream();
            let reader = thread::spawn(move || std::iter::from_fn(|| receiver.recv_blocking()).collect::<Vec<_>>());
            (0..num_events).for_each(|nth| sender.send(token(nth)));
            drop(sender);
            assert_eq!(reader.join().unwrap(), (0..num_events).map(token).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_task_is_woken_once_for_what_comes_while_it_sleeps() {
        struct Count(std::sync::atomic::AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(0.into()));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (sender, mut receiver) = event_stream();
        sender.send(token(1));
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(Some(token(1))));
        assert!(pin!(receiver.recv()).poll(&mut context).is_pending());
        (2..5).for_each(|nth| sender.send(token(nth)));
        drop(sender);
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        for expected in [Some(token(2)), Some(token(3)), Some(token(4)), None] {
            assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(expected));
        }
    }

    #[test]
    fn a_reader_that_went_away_is_nobodys_problem() {
        let (sender, receiver) = event_stream();
        drop(receiver);
        sender.send(token(1));
    }
}

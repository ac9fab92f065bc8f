//! Sends a plan's requests at their times and gathers the answers. Times are fixed beforehand: a slow server, or a slow load
//! generator, moves no later request. Knows no protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::answer::{Answer, Failure, Outcome, Reader};
use super::progress::Progress;
use super::server::{Question, Server};
use crate::workload::{Arrivals, Conversation, Plan, Turn};

/// Conversations that are due and not yet begun: the runtime takes them in microseconds.
const MAX_DUE: usize = 1024;

/// How long a run and its requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An answer that takes longer has failed.
    pub request: Duration,
    /// A closed loop begins nothing after this. An open loop's plan ends by itself.
    pub run: Option<Duration>,
}

/// What all requests of a run have in common.
struct Run {
    server: Arc<Server>,
    progress: Arc<Progress>,
    tenants: Vec<String>,
    limits: Limits,
    start: Instant,
}

/// Asks everything, and returns when the last answer has ended.
///
/// # Panics
/// If a task of this panicked.
pub async fn drive(
    server: &Arc<Server>,
    plan: Plan,
    arrivals: &Arrivals,
    limits: Limits,
    progress: &Arc<Progress>,
) -> Vec<Answer> {
    let run = Arc::new(Run {
        server: Arc::clone(server),
        progress: Arc::clone(progress),
        tenants: plan.tenants,
        limits,
        start: Instant::now(),
    });
    let answers = match arrivals {
        Arrivals::ClosedLoop { concurrency } => closed_loop(&run, plan.conversations, *concurrency as usize).await,
        Arrivals::AllAtOnce {} | Arrivals::Poisson { .. } | Arrivals::Bursts { .. } => {
            open_loop(&run, plan.conversations).await
        }
    };
    answers.into_iter().flatten().collect()
}

/// Begins each conversation at its time, however many are under way.
async fn open_loop(run: &Arc<Run>, conversations: Vec<Conversation>) -> Vec<Vec<Answer>> {
    let (sender, mut due) = mpsc::channel(MAX_DUE);
    let start = run.start;
    // A thread of its own: the runtime's timer is only good to a millisecond.
    let clock = thread::spawn(move || {
        for conversation in conversations {
            let at = start + Duration::from_micros(conversation.arrival_us);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if sender.blocking_send(conversation).is_err() {
                return;
            }
        }
    });
    let mut talks = JoinSet::new();
    while let Some(conversation) = due.recv().await {
        let intended_at = Duration::from_micros(conversation.arrival_us);
        let run = Arc::clone(run);
        talks.spawn(async move { run.talk(&conversation, intended_at).await });
    }
    clock.join().expect("the clock's thread does not panic");
    talks.join_all().await
}

/// Keeps a number of conversations under way; each begins when one before it has ended, and is to begin then.
async fn closed_loop(run: &Arc<Run>, conversations: Vec<Conversation>, concurrency: usize) -> Vec<Vec<Answer>> {
    let next = Arc::new(AtomicUsize::new(0));
    let conversations = Arc::new(conversations);
    let mut clients = JoinSet::new();
    for _ in 0..concurrency.min(conversations.len()) {
        let (run, next, conversations) = (Arc::clone(run), Arc::clone(&next), Arc::clone(&conversations));
        clients.spawn(async move {
            let mut answers = Vec::new();
            while let Some(conversation) = conversations.get(next.fetch_add(1, Ordering::Relaxed)) {
                let now = run.start.elapsed();
                if run.limits.run.is_some_and(|limit| now > limit) {
                    break;
                }
                answers.extend(run.talk(conversation, now).await);
            }
            answers
        });
    }
    clients.join_all().await
}

impl Run {
    /// All turns of a conversation. Nobody goes on with one that broke off.
    async fn talk(&self, conversation: &Conversation, mut intended_at: Duration) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::with_capacity(conversation.turns.len());
        for turn in &conversation.turns {
            if let Some(before) = answers.last() {
                intended_at = before.ended_at + Duration::from_millis(turn.pause_ms.into());
                tokio::time::sleep_until((self.start + intended_at).into()).await;
            }
            let answer = self.ask(turn, conversation.tenant, intended_at).await;
            let goes_on = matches!(answer.outcome, Outcome::Complete | Outcome::HungUp);
            answers.push(answer);
            if !goes_on {
                break;
            }
        }
        answers
    }

    /// One request from sending it to its end.
    async fn ask(&self, turn: &Turn, tenant: usize, intended_at: Duration) -> Answer {
        self.progress.add_sent();
        let sent_at = self.start.elapsed();
        let deadline = turn.deadline_ms.map(|ms| intended_at + Duration::from_millis(ms.into()));
        let patience_ends = deadline.unwrap_or(sent_at + self.limits.request);
        let question = Question {
            turn,
            tenant: &self.tenants[tenant],
            time_left: deadline.map(|deadline| deadline.saturating_sub(sent_at).max(Duration::from_millis(1))),
        };
        let mut reader = Reader::new(self.start, &self.progress, turn.cancel_after_tokens);
        let asked = self.server.ask(&question, &mut reader);
        let outcome = match timeout_at((self.start + patience_ends).into(), asked).await {
            Ok(outcome) => outcome,
            Err(_) if deadline.is_some() => Outcome::DeadlineMissed,
            Err(_) => Outcome::Failed(Failure::new("timed out", format!("no end within {:?}", self.limits.request))),
        };
        self.progress.add_ended();
        if matches!(outcome, Outcome::Failed(_)) {
            self.progress.add_failed();
        }
        Answer { tenant, intended_at, sent_at, ended_at: self.start.elapsed(), outcome, received: reader.received }
    }
}

//! The load generator before servers of a few lines, one a protocol, whose answers a request's first token id chooses.

mod grpc;
mod openai;

use std::sync::Arc;
use std::time::Duration;

use benches::load::{Answer, Failure, Limits, Outcome, Progress, Protocol, Server, drive};
use benches::workload::{Arrivals, Conversation, Plan, Turn};

/// Answer whole, a token a message.
const WHOLE: u32 = 1;
/// Answer with one token less than was asked for.
const SHORT: u32 = 2;
/// Say that the queue is full.
const FULL: u32 = 3;
/// Never answer.
const NEVER: u32 = 4;
/// End in the middle.
const BREAK_OFF: u32 = 5;

/// A request of three tokens of output.
fn turn(first_id: u32) -> Turn {
    Turn { pause_ms: 0, prompt: vec![first_id, 7, 8], output_tokens: 3, cancel_after_tokens: None, deadline_ms: None }
}

fn plan(conversations: Vec<Vec<Turn>>) -> Plan {
    let conversation = |turns| Conversation { arrival_us: 0, tenant: 0, turns };
    Plan { conversations: conversations.into_iter().map(conversation).collect(), tenants: vec!["acme".into()] }
}

async fn ask(protocol: Protocol, url: &str, plan: Plan, arrivals: &Arrivals, request: Duration) -> Vec<Answer> {
    let server = Server::connect(protocol, url, 2, Duration::ZERO).await.expect("the server listens");
    let progress = Arc::new(Progress::new(plan.num_requests()));
    drive(&Arc::new(server), plan, arrivals, Limits { request, run: None }, &progress).await
}

/// Asks one request after the other and returns what came of each.
async fn ask_in_turn(protocol: Protocol, url: &str, turns: Vec<Turn>, request: Duration) -> Vec<Answer> {
    let plan = plan(turns.into_iter().map(|turn| vec![turn]).collect());
    ask(protocol, url, plan, &Arrivals::ClosedLoop { concurrency: 1 }, request).await
}

#[track_caller]
fn check_outcomes(answers: &[Answer], expected: &[(Outcome, usize, u32)]) {
    let got: Vec<_> = answers
        .iter()
        .map(|answer| (answer.outcome.clone(), answer.received.at.len(), answer.received.num_tokens))
        .collect();
    assert_eq!(got, expected);
    for answer in answers {
        let mut times = vec![answer.intended_at, answer.sent_at];
        times.extend(&answer.received.at);
        times.push(answer.ended_at);
        assert!(times.is_sorted(), "{times:?}");
    }
}

fn failed(kind: &str, detail: &str) -> Outcome {
    Outcome::Failed(Failure { kind: kind.into(), detail: detail.into() })
}

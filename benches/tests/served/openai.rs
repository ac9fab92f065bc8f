//! The client of OpenAI's completions before a server of a few lines, which writes HTTP/1.1 as bytes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use benches::load::{Outcome, Protocol};
use benches::workload::Turn;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::{BREAK_OFF, FULL, NEVER, SHORT, WHOLE, ask_in_turn, check_outcomes, failed, turn};

/// In place of a token id: a server that does not count tokens.
const UNCOUNTED: u32 = 6;
/// In place of a token id: an error in the middle of the stream.
const ERROR_EVENT: u32 = 9;

type Asked = Arc<Mutex<Vec<Value>>>;

/// Serves until the runtime ends. The number of connections that brought a completion comes with what was asked.
async fn serve() -> (Asked, Arc<Mutex<usize>>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let (asked, num_connections) = (Asked::default(), Arc::new(Mutex::new(0)));
    let (kept, counted) = (Arc::clone(&asked), Arc::clone(&num_connections));
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve_one(connection, Arc::clone(&kept), Arc::clone(&counted)));
        }
    });
    (asked, num_connections, url)
}

async fn serve_one(connection: TcpStream, asked: Asked, counted: Arc<Mutex<usize>>) -> std::io::Result<()> {
    let mut is_counted = false;
    let mut connection = BufReader::new(connection);
    loop {
        let (mut path, mut len) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => len = value.parse().expect("a number"),
                Some(_) => {}
                None if line.is_empty() => break,
                None => path = line.split(' ').nth(1).expect("a request line").to_string(),
            }
        }
        let mut body = vec![0; len];
        connection.read_exact(&mut body).await?;
        match path.as_str() {
            "/v1/completions" => {
                let body: Value = serde_json::from_slice(&body).expect("the body is JSON");
                asked.lock().expect("no panic").push(body.clone());
                *counted.lock().expect("no panic") += usize::from(!std::mem::replace(&mut is_counted, true));
                complete(&mut connection, &body).await?;
            }
            "/v1/models" => whole(&mut connection, "200 OK", r#"{"data":[{"id":"stub"}]}"#).await?,
            _ => whole(&mut connection, "404 Not Found", "").await?,
        }
    }
}

async fn whole(connection: &mut BufReader<TcpStream>, status: &str, body: &str) -> std::io::Result<()> {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.write_all(answer.as_bytes()).await
}

async fn complete(connection: &mut BufReader<TcpStream>, request: &Value) -> std::io::Result<()> {
    let usage =
        |num| json!({"prompt_tokens": 3, "completion_tokens": num, "prompt_tokens_details": {"cached_tokens": 2}});
    let token = json!({"choices": [{"text": "a", "finish_reason": null}]});
    let no_text = json!({"choices": [{"text": "", "finish_reason": null}]});
    let last = json!({"choices": [{"text": "", "finish_reason": "length"}]});
    let counted = |num: u32| json!({"choices": [], "usage": usage(num)});
    let with_usage = json!({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage(2)});
    let events = match request["prompt"][0].as_u64().expect("ids") as u32 {
        WHOLE => vec![token, no_text, last, counted(3)],
        UNCOUNTED => vec![token, last],
        SHORT => vec![token, with_usage],
        ERROR_EVENT => vec![token, json!({"error": {"code": 500}})],
        FULL => return whole(connection, "503 Service Unavailable", "busy").await,
        NEVER => std::future::pending().await,
        BREAK_OFF => vec![token],
        id => panic!("no answer for {id}"),
    };
    connection.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    for event in events.iter().map(Value::to_string).chain(["[DONE]".to_string()]) {
        // Cut in the middle: events are not pieces of the transport.
        let event = format!("data: {event}\n\n");
        for piece in [&event[..8], &event[8..]] {
            connection.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
            connection.flush().await?;
        }
    }
    connection.write_all(b"0\r\n\r\n").await
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn answers_and_failures() {
    let (asked, num_connections, url) = serve().await;
    let turns = [WHOLE, UNCOUNTED, SHORT, FULL, BREAK_OFF, ERROR_EVENT].map(turn).to_vec();
    let answers = ask_in_turn(Protocol::Openai, &url, turns, LONG).await;
    check_outcomes(
        &answers,
        &[
            (Outcome::Complete, 2, 3),
            (Outcome::Complete, 1, 1),
            (failed("wrong length", "2 of 3 tokens"), 1, 2),
            (failed("HTTP 503", "busy"), 0, 0),
            (failed("broken off", "the stream ended without a finish reason"), 1, 1),
            (failed("error event", r#"{"code":500}"#), 1, 1),
        ],
    );
    assert_eq!((answers[0].received.prompt_tokens, answers[0].received.cached_tokens), (3, 2));
    let expected = json!({
        "model": "stub", "prompt": [WHOLE, 7, 8], "max_tokens": 3, "temperature": 0.0, "stream": true,
        "stream_options": {"include_usage": true}, "ignore_eos": true, "cache_salt": "acme",
    });
    assert_eq!(asked.lock().expect("no panic")[0], expected);
    // A connection each: the peers may close one that has answered while the next request is on its way.
    assert_eq!(*num_connections.lock().expect("no panic"), answers.len());
}

#[tokio::test]
async fn a_client_hangs_up() {
    let (_, _, url) = serve().await;
    let hangs_up = Turn { cancel_after_tokens: Some(1), ..turn(WHOLE) };
    let answers = ask_in_turn(Protocol::Openai, &url, vec![hangs_up, turn(WHOLE)], LONG).await;
    check_outcomes(&answers, &[(Outcome::HungUp, 1, 1), (Outcome::Complete, 2, 3)]);
}

#[tokio::test]
async fn what_never_comes_is_waited_for_as_long_as_it_should() {
    let (_, _, url) = serve().await;
    let impatient = Turn { deadline_ms: Some(20), ..turn(NEVER) };
    let answers = ask_in_turn(Protocol::Openai, &url, vec![impatient, turn(NEVER)], Duration::from_millis(20)).await;
    let expected = [(Outcome::DeadlineMissed, 0, 0), (failed("timed out", "no end within 20ms"), 0, 0)];
    check_outcomes(&answers, &expected);
}

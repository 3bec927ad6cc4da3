//! A chat endpoint on this machine that behaves as a test says.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Number among all requests, from 0.
    pub number: usize,
    /// Headers in small letters, one a line.
    pub head: String,
    /// The body.
    pub body: Value,
}

impl Asked {
    /// What the user's turn says.
    pub fn user_text(&self) -> &str {
        self.body["messages"].as_array().and_then(|m| m.last()).and_then(|m| m["content"].as_str()).unwrap_or_default()
    }

    /// How many items the schema asks for.
    pub fn count(&self) -> usize {
        self.body.pointer("/response_format/json_schema/schema/properties/items/maxItems").and_then(Value::as_u64).unwrap_or(3) as usize
    }
}

/// What the endpoint does with a request.
pub enum Reply {
    /// A completion with this content.
    Says(String),
    /// A status with further headers and a body.
    Status(u16, &'static str, String),
    /// 429 with this `Retry-After`.
    Later(String),
    /// 200 with a body that is no completion.
    Garbage,
    /// Half of a completion, then the line is cut.
    Half,
    /// The line is cut at once.
    Drop,
    /// Nothing until the endpoint ends.
    Stall,
}

/// A line to a client, with or without TLS.
pub trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

type Behaviour = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The endpoint; it ends when dropped.
pub struct Endpoint {
    pub url: String,
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    behaviour: Box<Behaviour>,
    asked: Mutex<Vec<Asked>>,
    answered: Mutex<Vec<Asked>>,
    stalled: AtomicUsize,
    over: AtomicBool,
}

impl Endpoint {
    pub fn new(behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Endpoint {
        Endpoint::over("http", |stream| Box::new(stream), behaviour)
    }

    /// One that speaks through what `wrap` makes of a connection.
    pub fn over(
        scheme: &str,
        wrap: impl Fn(TcpStream) -> Box<dyn Line> + Send + Sync + 'static,
        behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("{scheme}://{address}/v1");
        let state = State {
            behaviour: Box::new(behaviour),
            asked: Mutex::default(),
            answered: Mutex::default(),
            stalled: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        let state = Arc::new(state);
        let (shared, wrap) = (Arc::clone(&state), Arc::new(wrap));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.over.load(Ordering::Relaxed) {
                    break;
                }
                let (shared, wrap) = (Arc::clone(&shared), Arc::clone(&wrap));
                // A client that goes away is no failure of the endpoint.
                std::thread::spawn(move || stream.and_then(|s| serve(wrap(s), &shared)).ok());
            }
        });
        Endpoint { url, address, state }
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The requests that got a completion.
    pub fn answered(&self) -> Vec<Asked> {
        self.state.answered.lock().unwrap().clone()
    }

    /// Requests that wait for nothing.
    pub fn stalled(&self) -> usize {
        self.state.stalled.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: Box<dyn Line>, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            let lower = line.to_lowercase();
            if let Some(n) = lower.strip_prefix("content-length:") {
                length = n.trim().parse().unwrap_or(0);
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut all = state.asked.lock().unwrap();
        let asked = Asked { number: all.len(), head, body: serde_json::from_slice(&body).unwrap_or_default() };
        all.push(asked.clone());
        drop(all);
        if !answer(reader.get_mut(), state, &asked)? {
            return Ok(());
        }
    }
}

/// Answers; false where the line is to be cut.
fn answer(stream: &mut dyn Line, state: &State, asked: &Asked) -> std::io::Result<bool> {
    let completion = |content: &str| {
        let usage = json!({"prompt_tokens": 100, "completion_tokens": 10});
        json!({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage}).to_string()
    };
    let whole = |status: u16, more: &str, body: &str| {
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
    };
    match (state.behaviour)(asked) {
        Reply::Says(content) => {
            // Noted before it is sent: whoever has the answer is on record.
            state.answered.lock().unwrap().push(asked.clone());
            stream.write_all(whole(200, "", &completion(&content)).as_bytes())?;
        }
        Reply::Status(status, more, body) => stream.write_all(whole(status, more, &body).as_bytes())?,
        Reply::Later(after) => stream.write_all(whole(429, &format!("Retry-After: {after}\r\n"), "quota").as_bytes())?,
        Reply::Garbage => stream.write_all(whole(200, "", "<html>\u{0} it works! {{{").as_bytes())?,
        Reply::Half => {
            let text = whole(200, "", &completion("Half"));
            stream.write_all(&text.as_bytes()[..text.len() - 30])?;
            return Ok(false);
        }
        Reply::Drop => return Ok(false),
        Reply::Stall => {
            state.stalled.fetch_add(1, Ordering::Relaxed);
            while !state.over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// A model that names items of `titles` as JSON: which ones depends on the prompt alone.
pub fn model(titles: Vec<String>) -> impl Fn(&Asked) -> String + Send + Sync {
    move |asked| {
        let mut hash = asked.body.to_string().bytes().fold(7u64, |h, b| h.wrapping_mul(0x0100_0000_01B3) ^ u64::from(b));
        let mut items = Vec::new();
        for _ in 0..asked.count() {
            hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            items.push(titles[(hash >> 33) as usize % titles.len()].clone());
        }
        json!({ "items": items }).to_string()
    }
}

//! One request, from its arrival to the last byte of its answer. Then its line is written to the log, without any content.

use std::sync::Arc;
use std::time::Instant;

use hyper::{Method, StatusCode};
use tokio::sync::watch;

use crate::serve::path::Route;
use crate::serve::server_log::ServerLog;
use crate::serve::token_counts::AnswerEnd;

/// The number of requests in flight.
pub(crate) type InFlight = watch::Sender<usize>;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// llama.cpp's answer broke off.
    Broken,
    /// The client went away.
    Cancelled,
}

pub(crate) struct RequestRecord {
    log: Arc<ServerLog>,
    in_flight: Arc<InFlight>,
    method: Method,
    path: String,
    started: Instant,
    model: Option<String>,
    status: Option<StatusCode>,
    pub(crate) answer: AnswerEnd,
    end: End,
}

impl RequestRecord {
    pub(crate) fn begin(log: Arc<ServerLog>, in_flight: Arc<InFlight>, method: Method, path: &str) -> RequestRecord {
        in_flight.send_modify(|count| *count += 1);
        let path = path.chars().take(200).collect();
        let answer = AnswerEnd::default();
        RequestRecord { log, in_flight, method, path, started: Instant::now(), model: None, status: None, answer, end: End::Cancelled }
    }

    /// The model that the request is for.
    pub(crate) fn model(&mut self, name: &str) {
        self.model = Some(name.to_string());
    }

    /// The status of the answer, of which more may follow.
    pub(crate) fn status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The answer is complete.
    pub(crate) fn whole(&mut self) {
        self.end = End::Whole;
    }

    /// llama.cpp's answer broke off.
    pub(crate) fn broken(&mut self) {
        self.end = End::Broken;
    }

    fn line(&self, tokens: Option<(u64, u64)>) -> String {
        let mut words = vec![self.method.to_string(), self.path.clone()];
        words.extend(self.status.map(|status| status.as_u16().to_string()));
        words.extend(self.model.clone());
        words.extend(tokens.map(|(prompt, completion)| format!("{prompt}+{completion} tokens")));
        words.push(format!("{} ms", self.started.elapsed().as_millis()));
        words.extend(match self.end {
            End::Whole => None,
            End::Broken => Some("broken off: llama.cpp ended".to_string()),
            End::Cancelled => Some("cancelled: the client went away".to_string()),
        });
        words.join(" ")
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let tokens = self.answer.counts();
        self.log.count(|totals| {
            totals.requests += 1;
            totals.refused += u64::from(self.status.is_some_and(|status| status.as_u16() >= 400));
            totals.cancelled += u64::from(self.end == End::Cancelled);
            totals.broken += u64::from(self.end == End::Broken);
            let (prompt, completion) = tokens.unwrap_or_default();
            totals.prompt_tokens += prompt;
            totals.completion_tokens += completion;
        });
        let probe = Route::of(&self.method, &self.path) == Some(Route::Health);
        self.log.request(&self.line(tokens), probe);
        self.in_flight.send_modify(|count| *count -= 1);
    }
}

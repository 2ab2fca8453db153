//! Asking for what services have written.

use std::fmt::Write;

use defib_core::model::ServiceName;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::header::ACCEPT;
use tokio::task::JoinSet;

use super::types::{Counted, LogLine, LogUsage, Vacuum, Vacuumed};
use super::{Client, Error, Lines, json, problem};

/// What is wanted of a log. Texts are as the API takes them.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Only the last lines.
    pub lines: Option<usize>,
    /// Only from then on.
    pub since: Option<String>,
    /// Only until then.
    pub until: Option<String>,
    /// Only lines that hold this.
    pub grep: Option<String>,
    /// Only this stream.
    pub stream: Option<&'static str>,
    /// Go on with what comes.
    pub follow: bool,
}

impl LogQuery {
    fn path(&self, name: &ServiceName) -> String {
        let mut path = format!("/v1/services/{name}/logs?follow={}", self.follow);
        let lines = self.lines.map(|lines| lines.to_string());
        let texts = [
            ("lines", lines.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("grep", self.grep.as_deref()),
            ("stream", self.stream),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                path.push_str(&format!("&{key}={}", encoded(text)));
            }
        }
        path
    }
}

/// A text as it may stand in a query.
fn encoded(text: &str) -> String {
    let mut query = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            // A string takes all.
            write!(query, "%{byte:02X}").ok();
        }
    }
    query
}

impl Client {
    /// The lines of a service: those that there are, and with `follow` those that come.
    ///
    /// # Errors
    /// As every request, and if the streams of the service are not apart.
    pub async fn log(&self, name: &ServiceName, query: &LogQuery) -> Result<LogStream, Error> {
        let request = Request::get(query.path(name)).header(ACCEPT, "text/event-stream");
        let (response, connection) = self.send(request, Bytes::new()).await?;
        if response.status().is_success() {
            let body = response.into_body();
            Ok(LogStream { body, lines: Lines::default(), event: Vec::new(), _connection: connection })
        } else {
            Err(problem(response.into_body()).await)
        }
    }

    /// How many lines a service has written that are still there.
    ///
    /// # Errors
    /// As [`Client::log`].
    pub async fn count_log(&self, name: &ServiceName, query: &LogQuery) -> Result<Counted, Error> {
        let path = format!("{}&count=true", LogQuery { follow: false, ..query.clone() }.path(name));
        self.ask(Method::GET, &path, Bytes::new()).await
    }

    /// What the files of all services take.
    ///
    /// # Errors
    /// As every request.
    pub async fn log_usage(&self) -> Result<Vec<LogUsage>, Error> {
        self.ask(Method::GET, "/v1/logs/usage", Bytes::new()).await
    }

    /// Removes old files.
    ///
    /// # Errors
    /// As every request, and if the disk is stalled.
    pub async fn vacuum_logs(&self, wanted: &Vacuum) -> Result<Vacuumed, Error> {
        self.ask(Method::POST, "/v1/logs/vacuum", json(wanted)?).await
    }
}

/// What a log brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogNews {
    /// A line.
    Line(LogLine),
    /// What follows happens now.
    Live,
    /// So many bytes came too fast for this client.
    Missed(u64),
}

/// A log as it comes.
#[derive(Debug)]
pub struct LogStream {
    body: Incoming,
    lines: Lines,
    /// The name of the message that is being read.
    event: Vec<u8>,
    /// Moves the bytes; ends with this.
    _connection: JoinSet<()>,
}

impl LogStream {
    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Broken`] if the connection broke, [`Error::Strange`] if a line is not understood.
    pub async fn next(&mut self) -> Result<Option<LogNews>, Error> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(name) = line.strip_prefix(b"event:") {
                    self.event = name.trim_ascii().to_vec();
                } else if let Some(data) = line.strip_prefix(b"data:") {
                    return match std::mem::take(&mut self.event).as_slice() {
                        b"live" => Ok(Some(LogNews::Live)),
                        b"missed" => parsed(data).map(LogNews::Missed).map(Some),
                        _ => parsed(data).map(LogNews::Line).map(Some),
                    };
                }
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Error::Broken)?.into_data() {
                        self.lines.push(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(data: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(data).map_err(Error::Strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_can_be_searched() {
        let query = LogQuery { grep: Some("a b&c=ü%".into()), lines: Some(5), ..LogQuery::default() };
        let path = query.path(&"api".parse().unwrap());
        assert_eq!(path, "/v1/services/api/logs?follow=false&lines=5&grep=a%20b%26c%3D%C3%BC%25");
    }
}

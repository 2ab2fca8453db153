//! The API: HTTP/1.1 with JSON on a unix socket, a thin skin over [`Handle`](crate::daemon::handle::Handle). Over TCP with TLS
//! HTTP/2 is spoken too.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`Status`](types::Status): all services |
//! | `GET /v1/status/NAME` | [`Service`](types::Service) |
//! | `POST /v1/services/NAME/{start,stop,restart,reset,enable,disable,resume}` | [`Answer`](types::Answer) when it is done; with `?wait=false` 202 at once |
//! | `POST /v1/services/NAME/kill` | the same; the body is a [`Kill`](types::Kill) |
//! | `POST /v1/services/NAME/pause` | the same; the body is a [`Pause`](types::Pause) |
//! | `POST /v1/services/NAME/boot` | [`Answer`](types::Answer); the body is a [`Boot`](types::Boot): whether it starts with defib |
//! | `GET /v1/usage` | [`AllUsage`](types::AllUsage): CPU time and memory of all processes of each service |
//! | `GET /v1/ports?of=PORT&of=NAME&verify=true` | [`PortTable`](types::PortTable): who listens, and the connections of each watched port |
//! | `GET /v1/ports/PORT/peers?limit=20` | [`PortPeers`](types::PortPeers): the remote addresses with most connections, and how old those are |
//! | `GET /v1/inspect/NAME?most=50` | [`Inspection`](types::Inspection), at most so many items of a kind; for operators, as it tells what the kernel tells only them |
//! | `GET /v1/events?after=SEQ&service=NAME` | an array of [`Event`](types::Event): the latest, oldest first |
//! | the same with `Accept: text/event-stream` or `&follow=true` | server-sent events: those, then all that follow; resumes after `Last-Event-ID` |
//! | `&all=true` with it | also every other process of the host, from now on: events without `seq` |
//! | `POST /v1/reload?dry_run=BOOL` | [`Reloaded`](types::Reloaded); a problem with a line for each error if the configuration is bad |
//! | `GET /metrics`, `/metrics?collect[]=services` | the page that Prometheus scrapes; also over TCP, as all below but the last |
//! | `GET /alive` | `OK` |
//! | `GET /health`, `GET /ready` | [`Health`](types::Health), [`Ready`](types::Ready): 200 if so, else 503 |
//! | `GET /status` | [`Summary`](types::Summary): the daemon in a few numbers |
//! | `GET /` | a page of links to these |
//! | `GET /v1/services/NAME/logs?lines=&since=&until=&grep=&stream=` | an array of [`LogLine`](types::LogLine), 1000 by default; `&count=true`: [`Counted`](types::Counted) |
//! | the same with `Accept: text/event-stream` or `&follow=true` | server-sent events: all that are wanted; when following an event `live`, then those to come; `missed`: the number of bytes that came too fast |
//! | `GET /processes/NAME/output?lines=` | [`Output`](types::Output): the last lines, 1000 by default |
//! | `GET /v1/logs/usage` | an array of [`LogUsage`](types::LogUsage) |
//! | `POST /v1/logs/vacuum` | [`Vacuumed`](types::Vacuumed); the body is a [`Vacuum`](types::Vacuum) |
//! | `GET /v1/daemon` | [`Identity`](types::Identity): version and processes of defib itself |
//! | `POST /v1/restart` | the same, of the daemon that leaves for one of the binary on the disk; a problem if nothing has changed |
//! | `POST /v1/shutdown` | 202; the body is a [`Shutdown`](types::Shutdown) |
//!
//! Errors are problem details of RFC 9457 with a `code` of their own: [`Problem`](types::Problem).
//! Who may do what is told by the kernel, per connection: root and the daemon's own user act, all others only look.

mod accept;
mod conversation;
mod crowd;
mod follow;
mod http2;
pub(crate) mod names;
mod peer;
mod problem;
mod routes;
mod server;
mod show;
mod tcp;
pub mod types;

#[cfg(test)]
mod tests;

pub use server::serve;

//! Who is at the other end of a connection, by the word of the kernel.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::problem;
use super::types::Problem;

/// What the other end of a connection may do. Whoever can connect at all may read: the socket is 0660 root:defib.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Root or the daemon's own user: everything.
    Operator,
    /// Anybody else: look, not touch.
    Reader {
        /// The user.
        uid: u32,
    },
}

impl Peer {
    /// Judges by the user who connected (SO_PEERCRED, unix(7)) and the user that the daemon runs as.
    pub(super) fn of(uid: u32, daemon: u32) -> Self {
        if uid == 0 || uid == daemon { Self::Operator } else { Self::Reader { uid } }
    }
}

/// Lets requests of operators pass. A request without a peer did not come through the accept loop: denied.
pub(super) async fn operators_only(request: Request, next: Next) -> Result<Response, Problem> {
    match request.extensions().get() {
        Some(Peer::Operator) => Ok(next.run(request).await),
        Some(Peer::Reader { uid }) => Err(problem::denied(format!(
            "user {uid} may look but not act; that takes root or the user that defib runs as (try sudo)"
        ))),
        None => Err(problem::denied("it is not known who asks".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_user_may_act_and_all_others_look() {
        assert_eq!(Peer::of(0, 0), Peer::Operator);
        assert_eq!(Peer::of(0, 1000), Peer::Operator);
        assert_eq!(Peer::of(1000, 1000), Peer::Operator);
        assert_eq!(Peer::of(1000, 0), Peer::Reader { uid: 1000 });
        assert_eq!(Peer::of(1001, 1000), Peer::Reader { uid: 1001 });
    }
}

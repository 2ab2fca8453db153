//! Asks the web configuration about each request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::problem;
use crate::web::WebFile;

/// Who is asked; `None`: nobody, and everybody may look.
#[derive(Clone, Debug)]
pub(in crate::api) struct Guard(Option<Arc<WebFile>>);

/// The guard of a door.
pub(super) fn guard(web: Option<Arc<WebFile>>) -> Guard {
    Guard(web)
}

/// Lets a request pass that the configuration, as it is at this moment, lets pass.
pub(in crate::api) async fn check(State(Guard(web)): State<Guard>, request: Request, next: Next) -> Response {
    let Some(web) = web else { return next.run(request).await };
    let Ok(config) = web.now().await else {
        return problem::broken("the web configuration cannot be used; the log of defib tells why")
            .into_response();
    };
    let mut response = if web.admits(&config, request.headers().get(header::AUTHORIZATION)).await {
        next.run(request).await
    } else {
        let refusal = problem::bad_request(StatusCode::UNAUTHORIZED, "a name and its password are wanted");
        let wanted = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"))];
        (wanted, refusal).into_response()
    };
    response.headers_mut().extend(config.headers.iter().cloned());
    response
}

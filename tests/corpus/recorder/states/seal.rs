//! A server that is not initialised, sealed, or sealed again.

use serde_json::json;

use super::set_up;
use crate::answer::Recorder;
use crate::call;
use crate::server::{Options, Server};

/// In the form of a token, and none.
const NO_TOKEN: &str = "s.AAAAAAAAAAAAAAAAAAAAAAAA";

pub async fn record(recorder: &Recorder) {
    let mut server = Server::start(recorder.product, &Options::default()).await;
    let fresh = recorder.state("uninitialised", "the server runs and was never initialised");
    fresh.ask_all(&server, call::all(NO_TOKEN)).await;

    server.initialise().await;
    let started = recorder.state("started-sealed", "the server has started and was not unsealed yet");
    started.ask_all(&server, vec![call::encrypt(NO_TOKEN), call::health(), call::plain_health()]).await;

    server.unseal().await;
    set_up(&server).await;
    let token = server.token(json!({ "policies": ["kms"] })).await;
    server.put("sys/seal", json!({})).await;
    let sealed = recorder.state("sealed", "an operator sealed the server");
    sealed.ask_all(&server, call::all(&token)).await;
}

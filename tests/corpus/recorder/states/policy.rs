//! Policies that lack one right, and policies with limits on parameters.

use super::{ciphertext, token_with, usual};
use crate::answer::Recorder;
use crate::call;

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let old = ciphertext(&server).await;

    let guide = token_with(&server, &["kms"]).await;
    let state = recorder
        .state("policy-guide", "the token has the policy of the guide alone, without the default policy");
    state.ask_all(&server, vec![call::renew(&guide), call::capabilities(&guide)]).await;

    server.policy("nothing", "path \"secret/none\" { capabilities = [\"read\"] }").await;
    let nothing = token_with(&server, &["nothing"]).await;
    let state = recorder.state("policy-without", "the token's policy does not grant this call");
    state.ask_all(&server, call::with_token(&nothing)).await;

    server.policy("deny", "path \"transit/decrypt/kms-key\" { capabilities = [\"deny\"] }").await;
    let denied = token_with(&server, &["kms", "deny"]).await;
    let state = recorder.state("policy-deny", "one of the token's policies denies the path");
    state.ask(&server, call::decrypt(&denied, &old)).await;

    let gone = token_with(&server, &["no-such-policy"]).await;
    let state = recorder.state("policy-deleted", "the token's policy does not exist");
    state.ask_all(&server, vec![call::encrypt(&gone), call::lookup(&gone)]).await;

    for (name, rule, words) in [
        ("allowed", "allowed_parameters = { \"plaintext\" = [] }", "allowed_parameters without key_version"),
        ("denied", "denied_parameters = { \"key_version\" = [] }", "denied_parameters with key_version"),
        (
            "required",
            "required_parameters = [\"context\"]",
            "required_parameters with one that the agent does not send",
        ),
    ] {
        let policy = format!("path \"transit/encrypt/*\" {{ capabilities = [\"update\"]\n {rule} }}");
        server.policy(name, &policy).await;
        let token = token_with(&server, &[name]).await;
        let state = recorder.state(&format!("policy-{name}-parameters"), &format!("the policy has {words}"));
        state.ask(&server, call::encrypt(&token)).await;
    }
    let policy = "path \"transit/encrypt/*\" { capabilities = [\"update\"]\n min_wrapping_ttl = \"1m\"\n max_wrapping_ttl = \"2m\" }";
    server.policy("wrapped", policy).await;
    let token = token_with(&server, &["wrapped"]).await;
    let state = recorder.state("policy-wrapping-ttl", "the policy demands that answers are wrapped");
    state.ask(&server, call::encrypt(&token)).await;
}

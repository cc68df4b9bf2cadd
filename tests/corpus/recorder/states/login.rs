//! Logins by AppRole and by user name that are refused.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ids, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::server::Server;

const NIL: &str = "00000000-0000-4000-8000-000000000000";
const PATH: &str = "auth/approle/login";

async fn role(server: &Server, name: &str, fields: Value) -> String {
    let mut all = json!({ "token_policies": "kms" });
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.put(&format!("auth/approle/role/{name}"), all).await;
    let role_id = server.get(&format!("auth/approle/role/{name}/role-id")).await;
    role_id["data"]["role_id"].as_str().unwrap().to_owned()
}

async fn secret_id(server: &Server, name: &str, fields: Value) -> Value {
    server.put(&format!("auth/approle/role/{name}/secret-id"), fields).await["data"].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let (role_id, good) = ids(&server, "kms").await;
    let refused = |name: &str, words: &str| recorder.state(&format!("approle-{name}"), words);

    refused("wrong-role-id", "the role-id is wrong").ask(&server, call::approle(NIL, &good)).await;
    refused("wrong-secret-id", "the secret-id is wrong").ask(&server, call::approle(&role_id, NIL)).await;
    let state = refused("no-secret-id", "the request has no secret-id");
    state.ask(&server, call::login(PATH, json!({ "role_id": role_id }))).await;

    let once = secret_id(&server, "kms", json!({ "num_uses": 1 })).await;
    server.send(&call::approle(&role_id, text(&once["secret_id"]))).await;
    let state = refused("secret-id-used-up", "all uses of the secret-id are spent");
    state.ask(&server, call::approle(&role_id, text(&once["secret_id"]))).await;

    let short = secret_id(&server, "kms", json!({ "ttl": "1s" })).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let state = refused("secret-id-expired", "the secret-id has expired");
    state.ask(&server, call::approle(&role_id, text(&short["secret_id"]))).await;

    let destroyed = secret_id(&server, "kms", json!({})).await;
    let accessor = json!({ "secret_id_accessor": destroyed["secret_id_accessor"] });
    server.put("auth/approle/role/kms/secret-id-accessor/destroy", accessor).await;
    let state = refused("secret-id-destroyed", "the secret-id was destroyed");
    state.ask(&server, call::approle(&role_id, text(&destroyed["secret_id"]))).await;

    let other = json!({ "cidr_list": ["192.0.2.0/24"] });
    let bound = secret_id(&server, "kms", other).await;
    let state = refused("secret-id-cidr", "the secret-id is bound to another network (cidr_list)");
    state.ask(&server, call::approle(&role_id, text(&bound["secret_id"]))).await;

    let cidr = json!({ "secret_id_bound_cidrs": ["192.0.2.0/24"] });
    let bound_role = role(&server, "bound", cidr).await;
    let secret = secret_id(&server, "bound", json!({})).await;
    let state =
        refused("role-cidr", "the role's secret-ids are bound to another network (secret_id_bound_cidrs)");
    state.ask(&server, call::approle(&bound_role, text(&secret["secret_id"]))).await;

    let token_bound = role(&server, "token-bound", json!({ "token_bound_cidrs": ["192.0.2.0/24"] })).await;
    let secret = secret_id(&server, "token-bound", json!({})).await;
    let state = refused("token-cidr", "the role's tokens are bound to another network (token_bound_cidrs)");
    let login = call::approle(&token_bound, text(&secret["secret_id"]));
    state.ask(&server, login).await;

    let deleted = role(&server, "deleted", json!({})).await;
    let secret = secret_id(&server, "deleted", json!({})).await;
    server.delete("auth/approle/role/deleted").await;
    let state = refused("role-deleted", "the role was deleted");
    state.ask(&server, call::approle(&deleted, text(&secret["secret_id"]))).await;

    let unbound = json!({ "bind_secret_id": false, "token_bound_cidrs": ["127.0.0.0/8"] });
    let unbound = role(&server, "unbound", unbound).await;
    let state = refused("unbound", "the role needs no secret-id (bind_secret_id = false)");
    state.ask(&server, call::login(PATH, json!({ "role_id": unbound }))).await;

    userpass(recorder, &server).await;
    mfa(recorder, &server).await;

    for _ in 0..6 {
        server.send(&call::approle(&role_id, NIL)).await;
    }
    let state = refused("locked-out", "five wrong secret-ids locked the role; this one is right");
    state.ask(&server, call::approle(&role_id, &good)).await;
    let state = refused("locked-out-wrong", "five wrong secret-ids locked the role; this one is wrong, too");
    state.ask(&server, call::approle(&role_id, NIL)).await;

    server.delete("sys/auth/approle").await;
    let state = refused("disabled", "the auth mount was disabled");
    state.ask(&server, call::approle(&role_id, &good)).await;
    let state = refused("mount-of-another-kind", "vault.auth.mount names a mount of another method");
    state.ask(&server, Call::post("auth/userpass/login", json!({ "role_id": NIL })).kind("login")).await;
}

async fn userpass(recorder: &Recorder, server: &Server) {
    server.put("sys/auth/userpass", json!({ "type": "userpass" })).await;
    server.put("auth/userpass/users/node", json!({ "password": "right", "token_policies": "kms" })).await;
    let login = |user: &str, password: &str| {
        call::login(&format!("auth/userpass/login/{user}"), json!({ "password": password }))
    };
    let state = recorder.state("userpass-wrong-password", "the password is wrong");
    state.ask(server, login("node", "wrong")).await;
    let state = recorder.state("userpass-unknown-user", "there is no such user");
    state.ask(server, login("nobody", "wrong")).await;
    for _ in 0..6 {
        server.send(&login("node", "wrong")).await;
    }
    let state =
        recorder.state("userpass-locked-out", "five wrong passwords locked the user; this one is right");
    state.ask(server, login("node", "right")).await;
}

/// A login that succeeds and grants no token: a second factor is asked for.
async fn mfa(recorder: &Recorder, server: &Server) {
    let role_id = role(server, "mfa", json!({})).await;
    let secret = secret_id(server, "mfa", json!({})).await;
    let login = call::approle(&role_id, text(&secret["secret_id"]));
    let method = server.put("identity/mfa/method/totp", json!({ "issuer": "test" })).await;
    let enforcement = json!({
        "mfa_method_ids": [method["data"]["method_id"]], "auth_method_types": ["approle"],
    });
    server.put("identity/mfa/login-enforcement/approle", enforcement).await;
    let state = recorder.state("approle-mfa", "the login asks for a second factor (login MFA)");
    state.ask(server, login).await;
    server.delete("identity/mfa/login-enforcement/approle").await;
}

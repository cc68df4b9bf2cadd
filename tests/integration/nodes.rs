//! `nodes`: the agents of several nodes side by side.

use serde_json::{Value, json};

use crate::support::agent::{Agent, QUICK, command};
use crate::support::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_side_by_side() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    let (here, other) = tokio::join!(Agent::ready(&config), Agent::ready(&config));
    let file = other.directory.path().join("node-2.json");
    let name = file.display().to_string();
    let (_, text) = other.command_with(&["status", "--output", "json"]);
    let mut status: Value = serde_json::from_str(&text).unwrap();
    let write = |status: &Value| std::fs::write(&file, status.to_string()).unwrap();

    // Their files have other names here, which a node's do not.
    write(&status);
    let (code, text) = here.command_with(&["nodes", &name]);
    assert!(code == 1 && text.contains("different configurations"), "{code} {text}");
    status["config"]["digest"] = here.status().unwrap()["config"]["digest"].clone();
    write(&status);
    let (code, text) = here.command_with(&["nodes", &name]);
    assert!(code == 0 && text.contains("the nodes agree"), "{code} {text}");
    for words in ["this node", "node-2", "ready", "v1.", "off"] {
        assert!(text.contains(words), "{words}: {text}");
    }

    status["primary"]["key"]["key_id"] = json!("v1.another");
    write(&status);
    let (code, text) = here.command_with(&["nodes", &name]);
    assert!(code == 2 && text.contains("v1.another on node-2"), "{code} {text}");
    let (code, text) = here.command_with(&["nodes", &name, "--output", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &json["differences"][0]["grave"], &json["nodes"][1]["node"]),
        (2, &json!(true), &json!("node-2"))
    );

    // Without a node, and with a file that is no status.
    let empty = tempfile::tempdir().unwrap();
    let alone = |arguments: &[&str]| {
        let output = command().arg("nodes").args(arguments).arg("--runtime-dir").arg(empty.path()).output();
        output.unwrap().status.code()
    };
    assert_eq!(alone(&[]), Some(69));
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(alone(&[&name]), Some(64));
}

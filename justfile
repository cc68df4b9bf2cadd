# Short names for the scripts and cargo commands of this project. `just --list` shows them. The same commands work
# without just: README.md and CONTRIBUTING.md use them.

# list the recipes
default:
    @just --list --unsorted

# build the release binaries
build *ARGS:
    cargo build --release --locked {{ ARGS }}

# run the plugin with keys in a local file, and test it
dev *ARGS:
    cargo run --locked -- dev {{ ARGS }}

# run every test that needs no root; installs what is missing
test *ARGS:
    tests/run {{ ARGS }}

# test packages, units and the image in a real systemd; needs root
system *ARGS:
    tests/system/run {{ ARGS }}

# test with a real kube-apiserver and etcd
e2e *ARGS:
    tests/e2e/run {{ ARGS }}

# test with clusters of three servers: lost leaders, network cuts, upgrades
clusters *ARGS:
    tests/clusters/run {{ ARGS }}

# test the promised times at the default intervals, on a real server
deadlines *ARGS:
    tests/deadlines/run {{ ARGS }}

# run what must pass before a change is merged
ci:
    .ci/run

# run the long tests that CI runs on a schedule
scheduled:
    .ci/scheduled

# lint as .ci/run does
lint:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --test e2e --test clusters --test deadlines -- -D warnings

# format the Rust and the Go code
fmt:
    cargo fmt
    gofmt -w tests/go-client tests/e2e/apiserver

# build the API documentation; warnings are errors
doc *ARGS:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps {{ ARGS }}

# measure what the plugin adds to a Transit call
bench *ARGS:
    cargo bench --locked {{ ARGS }}

//! Compiles the protocols, KMS v2 and the SPIFFE Workload API, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["kms/v2/api.proto", "spiffe/workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // The messages carry DEK seeds, keys and tokens: a derived Debug would print them.
        .skip_debug(["v2.EncryptRequest", "v2.DecryptResponse"])
        .skip_debug(["X509SVIDResponse", "X509SVID", "JWTSVIDResponse", "JWTSVID"])
        .compile_fds(descriptors)?;
    Ok(())
}

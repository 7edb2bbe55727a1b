//! Access logs over gRPC and OTLP: what Envoy and `mizzen-proxy` tell collectors of the same requests.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collectors_are_told_the_same_of_the_same_requests() -> anyhow::Result<()> {
    differential::exported::compare().await
}

//! The overload manager: Envoy and `mizzen-proxy` under the same pressure.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_pressure_both_refuse_the_same_and_count_it_alike() -> anyhow::Result<()> {
    differential::overload::compare().await
}

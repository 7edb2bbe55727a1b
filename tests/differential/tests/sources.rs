//! Configuration by files and by servers of single types, in Envoy and in `mizzen-proxy`, changed while requests go on.

use differential::sources::{Form, changes, last_good, on_demand};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_followed_as_envoy_follows_them() -> anyhow::Result<()> {
    changes(Form::File).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_single_types_are_followed_by_grpc() -> anyhow::Result<()> {
    changes(Form::Grpc).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_single_types_are_followed_by_delta_grpc() -> anyhow::Result<()> {
    changes(Form::Delta).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_single_types_are_followed_by_rest() -> anyhow::Result<()> {
    changes(Form::Rest).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_server_a_restarted_proxy_serves_the_last_good_configuration() -> anyhow::Result<()> {
    for form in [Form::Grpc, Form::Delta, Form::Rest] {
        last_good(form).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn virtual_hosts_are_asked_for_when_requests_need_them() -> anyhow::Result<()> {
    on_demand().await
}

//! What holds between several gateways on one store holds for one alone.

use portcullis_tests::replicas;

#[tokio::test]
async fn a_gateway_alone_refuses_what_it_revoked() {
    replicas::a_revocation_on_one_refuses_on_the_others(|builder| builder, 1).await;
}

#[tokio::test]
async fn a_gateway_alone_sweeps() {
    replicas::one_gateway_sweeps_at_a_time(|builder| builder, 1).await;
}

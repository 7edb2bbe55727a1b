//! Asks the API server whose a service-account token is.

use ca::{BoxFuture, ReviewError, ReviewedAccount, TokenReviewer};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};

/// Reviews tokens at an API server.
pub(super) struct KubeReviewer(pub(super) kube::Client);

impl TokenReviewer for KubeReviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [&'a str],
    ) -> BoxFuture<'a, Result<ReviewedAccount, ReviewError>> {
        Box::pin(async move {
            let review = TokenReview {
                spec: TokenReviewSpec {
                    token: token.to_owned(),
                    audiences: Some(audiences.iter().map(|audience| (*audience).to_owned()).collect()),
                },
                ..Default::default()
            };
            let reviews: Api<TokenReview> = Api::all(self.0.clone());
            let answer = reviews
                .create(&PostParams::default(), &review)
                .await
                .map_err(|error| ReviewError::Unavailable(error.to_string()))?;
            account(answer.status.unwrap_or_default(), audiences)
        })
    }
}

/// A token counts when it is authenticated, for one of our audiences, and a service account's.
fn account(status: TokenReviewStatus, audiences: &[&str]) -> Result<ReviewedAccount, ReviewError> {
    let refused = |why: &str| Err(ReviewError::Refused(why.to_owned()));
    if status.authenticated != Some(true) {
        return refused(status.error.as_deref().unwrap_or("not authenticated"));
    }
    let meant_for = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| meant_for.iter().any(|meant| meant == audience)) {
        return refused("it is meant for another audience");
    }
    let name = status.user.and_then(|user| user.username).unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|name| name.split_once(':'));
    let Some((namespace, service_account)) = account else { return refused("it is not a service account's") };
    Ok(ReviewedAccount { namespace: namespace.to_owned(), service_account: service_account.to_owned() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(authenticated: bool, audience: &str, user: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(authenticated),
            audiences: Some(vec![audience.into()]),
            user: Some(UserInfo { username: Some(user.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn only_service_accounts_of_our_audience_count() {
        let ours = ["istio-ca"];
        let judge = |a, b, c| account(status(a, b, c), &ours);
        let found = judge(true, "istio-ca", "system:serviceaccount:default:reviews").unwrap();
        assert_eq!((found.namespace.as_str(), found.service_account.as_str()), ("default", "reviews"));
        assert!(judge(false, "istio-ca", "system:serviceaccount:default:reviews").is_err());
        assert!(judge(true, "other", "system:serviceaccount:default:reviews").is_err());
        assert!(judge(true, "istio-ca", "kubernetes-admin").is_err());
        // An API server that does not know audiences says none: that is no proof.
        assert!(
            account(TokenReviewStatus { authenticated: Some(true), ..Default::default() }, &ours).is_err()
        );
    }
}

//! Placeholder until the balancers are merged.
pub struct Balancer;
impl crate::subscribe::Observer for Balancer {
    fn update(&self, _endpoints: &crate::Endpoints) {}
}

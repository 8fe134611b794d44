//! stub
use crate::*;
/// s
#[derive(Debug)] pub struct Replica; 
/// s
#[derive(Debug)] pub struct InstanceQuery; 
/// s
#[derive(Debug)] pub struct NamespaceQuery; 
/// s
#[derive(Debug)] pub struct ServiceQuery; 
/// s
#[derive(Debug)] pub struct Page; 
/// s
#[derive(Debug)] pub struct ReplicaStats; 

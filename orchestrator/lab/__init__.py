"""A small internet to try the orchestrator in: one description, three ways to build it.

`internet` describes it. `netns` builds it out of network namespaces in the kernel it runs in;
`uml` boots a kernel for that where the machine's own will not do; the Vagrantfile makes the
same hosts as virtual machines. `backends` chooses. `vagrant/lab` is the front door.
"""

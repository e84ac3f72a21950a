"""What the managers offer to services and to each other. They stay in process; methods are coroutines.

Every namespaced call takes a `Scope`: the namespace, and the lease that what the call creates belongs to.
"""

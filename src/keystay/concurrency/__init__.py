"""The one home of waiting: clocks and deadlines, blocking calls, locks, and what a fork must find.

The core and every plugin use it. Nothing here knows keys or HTTP. `import keystay` loads `forks`.
"""

"""The guards: rules for every test, so that wrong async code fails the test.

`conftest.py` in the folder above connects them to pytest. Each module here has one job:

- `settings`: the options and markers, and the package whose code is watched
- `places`: whether a file is the project's, and the line that a message begins with
- `record`: the observations during one test, and the verdict
- `loops`: the event loop of the tests; most guards observe the code there
- `tasks`: tasks, timers and async generators that are left over; lost errors
- `blocking`: blocking calls in the package
- `watchdog`: tests that hang, and CPU work that keeps the loop busy
- `mocks`: mocks without a spec
- `resources`: sockets, files, processes and clients that are left open
- `threads`: threads and signal handlers that are left behind
- `clock`: a virtual clock, and tasks in a random order
- `cancellation`: a coroutine that is cancelled at each of its awaits
"""

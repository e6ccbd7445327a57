"""The app layer as a process, with the socket API."""

from plywire.runtime.process import main
from services.app.server import serve

main("app", serve=serve)

# The build has its own stage, so the image contains none of its tools. No process runs as root.
FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /app
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --extra server --no-install-project
COPY tkdb tkdb
COPY client client
COPY replication replication
RUN uv sync --locked --no-dev --extra server --no-editable

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 tkdb \
 && useradd --system --uid 10001 --gid tkdb tkdb \
 && install --directory --owner tkdb --group tkdb /data \
 && ln -s /app/.venv/bin/tkdb /usr/local/bin/tkdb
COPY --from=build /app/.venv /app/.venv
ENV PYTHONUNBUFFERED=1
# The platform gives /data to this user when it mounts the volume, so no step needs root. On Fly, the machine's init reads
# this line and does that at each start. Docker takes the owner from the image, and Kubernetes has fsGroup. The user is a
# number, because Kubernetes can't see from a name that the user isn't root.
USER 10001
VOLUME /data
EXPOSE 8080
# tkdb runs as process 1 without an init: it handles SIGTERM itself, and its only child ends before it does.
CMD ["tkdb", "serve"]

# Built in one stage, run in another: nothing of the build is left, and nothing runs as root.
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
# Whoever mounts /data gives it to this user, so there is nothing to be done as root first: on Fly the machine's init does so
# at each start (it reads this line), Docker takes the owner from the image, Kubernetes has fsGroup. By its number, or
# Kubernetes can't see that it isn't root.
USER 10001
VOLUME /data
EXPOSE 8080
# As process 1 it needs no init: it answers SIGTERM itself, and its one child ends before it does.
CMD ["tkdb", "serve"]

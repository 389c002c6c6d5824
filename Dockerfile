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
RUN useradd --system --uid 10001 tkdb && install --directory --owner tkdb /data
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER tkdb
VOLUME /data
EXPOSE 8080
CMD ["tkdb", "serve"]

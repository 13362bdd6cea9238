# docker build --target light -t llmanac-light .     text, servers' evaluation, GGUF files: no torch
# docker build -t llmanac . && docker run --rm -v "$PWD/runs:/home/llmanac/runs" llmanac run quickstart --budget 60s
FROM python:3.11-slim AS light
RUN useradd --create-home llmanac
WORKDIR /home/llmanac
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY docs/evidence ./docs/evidence
RUN pip install --no-cache-dir .
USER llmanac
ENTRYPOINT ["llmanac"]
CMD ["list"]

FROM light AS full
USER root
RUN pip install --no-cache-dir uv && uv pip install --system --no-cache --torch-backend cpu '.[all]'
USER llmanac

# docker build -t llmanac . && docker run --rm -v "$PWD/runs:/home/llmanac/runs" llmanac run quickstart --budget 60s
FROM python:3.11-slim
RUN useradd --create-home llmanac
WORKDIR /home/llmanac
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY docs/evidence ./docs/evidence
RUN pip install --no-cache-dir .
USER llmanac
ENTRYPOINT ["llmanac"]
CMD ["list"]

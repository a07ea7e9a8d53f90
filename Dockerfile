# The service on a CPU. Build the wheel first: python -m pip wheel --no-deps --wheel-dir dist .
FROM python:3.12-slim

WORKDIR /tmp/build
COPY constraints.txt ./
COPY dist/clearcap-*.whl ./
# versions are those that the tests pass with; captioning needs no torch
RUN pip install --no-cache-dir --constraint constraints.txt "$(ls ./clearcap-*.whl)[serve]" \
    && rm -rf /tmp/build \
    && useradd --system --uid 10001 --create-home clearcap

WORKDIR /home/clearcap
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["clearcap", "serve", "--host", "0.0.0.0"]

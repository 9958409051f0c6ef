module example.com/keyturn

go 1.21
